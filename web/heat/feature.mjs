// @ts-check

/** What the browser registers for this feature. */
export const heat = {
  name: "KronA.HeatMap",
};
