// @ts-check

/** What the browser registers for this feature. */
export const training = {
  name: "KronA.Training",
};
