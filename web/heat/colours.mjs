// @ts-check
/** Colours of the heat map: logarithmic, because an adapter's parts differ by factors, not by amounts. */

/**
 * From little to much: matplotlib's magma, reversed, read off at equal distances; dark grounds take it the other way
 * round.
 */
const STOPS = [
  [252, 253, 191],
  [254, 186, 128],
  [246, 110, 92],
  [205, 64, 113],
  [140, 41, 129],
  [80, 18, 123],
  [21, 14, 55],
];
const DECADES = 3;

/**
 * Where values stand between the least and the most that is shown. As in the picture that the node draws, it spans
 * three powers of ten at most, so that one still part does not bleach the others.
 * @param {(number | null)[]} values
 * @returns {(value: number) => number} From 0 to 1.
 */
export function scale(values) {
  const seen = /** @type {number[]} */ (
    values.filter((value) => value !== null && Number.isFinite(value) && value > 0)
  );
  const high = seen.length ? Math.max(...seen) : 1;
  const low = seen.length ? Math.max(Math.min(...seen), high / 10 ** DECADES) : high / 10;
  const span = Math.log(high / low) || 1;
  return (value) => (value > 0 ? Math.min(1, Math.max(0, Math.log(value / low) / span)) : 0);
}

/**
 * @param {number} part From 0 (little) to 1 (much).
 * @param {boolean} isDark Whether the ground is dark: much is bright there.
 * @returns {{ground: string, ink: string}} CSS colours of a cell and of the text on it.
 */
export function cellColours(part, isDark) {
  const place = (isDark ? 1 - part : part) * (STOPS.length - 1);
  const index = Math.min(Math.floor(place), STOPS.length - 2);
  const rest = place - index;
  const [r, g, b] = STOPS[index].map((from, channel) => Math.round(from + rest * (STOPS[index + 1][channel] - from)));
  const luminance = (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
  return { ground: `rgb(${r} ${g} ${b})`, ink: luminance > 0.5 ? "#16121d" : "#ffffff" };
}

/**
 * A number in three digits, as a reader compares them.
 * @param {number | null | undefined} value
 */
export function short(value) {
  return inDigits(value, 3);
}

/**
 * A number in the two digits that a cell has room for; whole numbers below a thousand keep theirs.
 * @param {number | null | undefined} value
 */
export function brief(value) {
  return typeof value === "number" && value >= 10 && value < 1000 ? value.toFixed(0) : inDigits(value, 2);
}

/** @param {number | null | undefined} value @param {number} digits */
function inDigits(value, digits) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.01 && size < 1000 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
}
