// @ts-check

/** What the browser registers for this feature. */
export const drop = {
  name: "KronA.Drop",
};
