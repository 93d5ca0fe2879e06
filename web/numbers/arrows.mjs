// @ts-check
/** What the server says of a node's numbers. */

/**
 * By how much the arrows of each number of a node change it.
 * @param {Record<string, Record<string, any>> | undefined} inputs A node's inputs as `/object_info` tells them: by
 *   group, then by name.
 * @returns {Map<string, number>} By the input's name; inputs that say nothing of it are not in it.
 */
export function arrowsOf(inputs) {
  const steps = new Map();
  for (const group of [inputs?.required, inputs?.optional]) {
    for (const [name, spec] of Object.entries(group ?? {})) {
      const arrows = spec?.[1]?.krona_arrows;
      if (typeof arrows === "number") steps.set(name, arrows);
    }
  }
  return steps;
}

/**
 * The shortest text for a number: the editor writes all decimals of the smallest step, "1.000000000" for 1.
 * @param {unknown} value What a widget holds; numbers loaded from old graphs may be texts.
 */
export function shortest(value) {
  const number = Number(value);
  return Number.isFinite(number) ? String(Number(number.toPrecision(12))) : String(value);
}
