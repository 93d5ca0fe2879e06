// @ts-check

/** What the browser registers for this feature. */
export const loader = {
  name: "KronA.Loader",
};
