// @ts-check
/**
 * The text of a KronA Weights node: `selector=strength`, separated by commas or lines; the last that matches a layer
 * counts.
 */

/**
 * As `krona_ops/operations/strengths.py` reads it: a regular expression between slashes may hold commas and equals
 * signs.
 */
const ENTRY = /[^\S\n]*(\/(?:\\.|[^/\\\n])*\/|[^=,\n]*?)[^\S\n]*(?:=[^\S\n]*([^,\n]*?)[^\S\n]*)?([,\n]|$)/y;

/**
 * @typedef {{selector: string, strength: string, start: number, end: number}} Entry With its place in the text,
 *   separator included.
 * @param {string} text
 * @returns {Entry[]} In order, empty ones left out.
 */
export function entries(text) {
  // Comments become spaces of the same length, so that places in the text stay.
  const plain = text.replace(/(^|\s)#[^\n]*/g, (comment) => comment.replace(/[^\n]/g, " "));
  const list = [];
  ENTRY.lastIndex = 0;
  while (ENTRY.lastIndex < plain.length) {
    const start = ENTRY.lastIndex;
    const match = ENTRY.exec(plain);
    if (!match) break;
    if (match[1].trim())
      list.push({ selector: match[1].trim(), strength: match[2] ?? "", start, end: ENTRY.lastIndex });
  }
  return list;
}

/**
 * The strength that the text gives for exactly this selector; null where it does not name it.
 * @param {string} text
 * @param {string} selector
 * @returns {number | null}
 */
export function strengthOf(text, selector) {
  const mine = entries(text).filter((entry) => entry.selector === selector);
  const strength = mine.length ? Number(mine[mine.length - 1].strength) : NaN;
  return Number.isFinite(strength) ? strength : null;
}

/**
 * The text with this strength: an earlier entry for the selector is taken out, and the new one goes last, where no
 * other overrides it.
 * @param {string} text
 * @param {string} selector
 * @param {number | null} strength `null` takes the entry out.
 */
export function withStrength(text, selector, strength) {
  let rest = "";
  let from = 0;
  for (const entry of entries(text)) {
    if (entry.selector !== selector) continue;
    rest += text.slice(from, entry.start);
    from = entry.end;
  }
  rest = (rest + text.slice(from)).replace(/^[\s,]+|[\s,]+$/g, "");
  if (strength === null) return rest;
  const separator = rest === "" ? "" : /[\n#]/.test(rest) ? "\n" : ", ";
  return `${rest}${separator}${selector}=${Number(strength.toFixed(4))}`;
}
