// @ts-check
/** Numbers as people read them. */

/** Stands where a number is not known. */
export const NONE = "–";

/** @param {number | null | undefined} value @returns {string} Three or four digits that matter. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return exponent(value);
  return size < 1 ? value.toFixed(4) : size < 100 ? value.toFixed(3) : value.toFixed(0);
}

/** @param {number | null | undefined} value @returns {string} As it would be typed: 5e-4, 0.001. */
export function exponent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-2 && size < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
  return text.replace(/\.?0+e/, "e").replace("e+", "e");
}

/** @param {number | null | undefined} seconds @returns {string} 4 s, 3:09, 2:03:09. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : clock(whole);
}

/** @param {number} seconds @returns {string} 0:04, 3:09, 2:03:09. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/**
 * @param {number | null | undefined} perSecond
 * @param {{perSecond: string, perStep: string}} units
 * @returns {string}
 */
export function pace(perSecond, units) {
  if (perSecond === null || perSecond === undefined || !Number.isFinite(perSecond) || perSecond <= 0) return NONE;
  return perSecond >= 0.5
    ? `${perSecond.toPrecision(3)} ${units.perSecond}`
    : `${(1 / perSecond).toPrecision(3)} ${units.perStep}`;
}

/** @param {number | null | undefined} bytes @returns {string} */
export function size(bytes) {
  if (bytes === null || bytes === undefined || !Number.isFinite(bytes)) return NONE;
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
}
