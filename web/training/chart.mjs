// @ts-check
/** The geometry of a chart: from numbers to places on the page. Draws nothing. */

/**
 * @typedef {{map: (value: number) => number, invert: (place: number) => number, ticks: (count: number) => number[],
 *   domain: [number, number]}} Scale `map` gives NaN for what has no place, such as 0 on a logarithmic scale.
 */

/**
 * @param {[number, number]} domain
 * @param {[number, number]} range
 * @returns {Scale}
 */
export function linear([low, high], [start, end]) {
  const width = high - low || 1;
  return {
    map: (value) => start + ((value - low) / width) * (end - start),
    invert: (place) => low + ((place - start) / (end - start || 1)) * width,
    ticks: (count) => ticks(low, high, count),
    domain: [low, high],
  };
}

/**
 * @param {[number, number]} domain Above zero.
 * @param {[number, number]} range
 * @returns {Scale}
 */
export function logarithmic([low, high], range) {
  const inner = linear([Math.log10(low), Math.log10(high)], range);
  return {
    map: (value) => (value > 0 ? inner.map(Math.log10(value)) : NaN),
    invert: (place) => 10 ** inner.invert(place),
    ticks: (count) => logTicks(low, high, count),
    domain: [low, high],
  };
}

/**
 * Round numbers (1, 2 or 5 times a power of ten apart) within an interval.
 * @param {number} low
 * @param {number} high
 * @param {number} count About how many.
 * @returns {number[]}
 */
export function ticks(low, high, count) {
  if (!(high > low) || count < 1) return [low];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const apart = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999) ?? 10 * power;
  const places = [];
  // Counted in whole numbers of `apart`: adding it up would end at 0.30000000000000004.
  for (let i = Math.ceil(low / apart - 1e-9); i * apart <= high + apart * 1e-9; i += 1) places.push(tidy(i * apart));
  return places;
}

/**
 * Powers of ten, and where there are few, 2 and 5 times those; plain ticks where less than a factor of ten is in view.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 * @returns {number[]}
 */
export function logTicks(low, high, count) {
  const decades = Math.log10(high) - Math.log10(low);
  if (decades < 1) return ticks(low, high, count).filter((each) => each > 0);
  const every = Math.max(1, Math.ceil(decades / count));
  const factors = decades * 3 <= count * 1.5 ? [1, 2, 5] : [1];
  const places = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += every) {
    for (const factor of factors) {
      const value = tidy(factor * 10 ** power);
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) places.push(value);
    }
  }
  return places;
}

/** @param {number} value */
function tidy(value) {
  return Number(value.toPrecision(12));
}

/**
 * The interval that holds all values, a little wider.
 * @param {ArrayLike<number>[]} lists
 * @param {boolean} isLogarithmic Then only values above zero count.
 * @returns {[number, number]}
 */
export function extent(lists, isLogarithmic = false) {
  let low = Infinity;
  let high = -Infinity;
  for (const values of lists) {
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i];
      if (!Number.isFinite(value) || (isLogarithmic && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return isLogarithmic ? [0.1, 1] : [0, 1];
  return isLogarithmic ? [low / 1.1, high * 1.1] : widened(low, high);
}

/** @param {number} low @param {number} high @returns {[number, number]} */
function widened(low, high) {
  const air = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 ? Math.max(0, low - air) : low - air, high + air];
}

/**
 * Which points to draw so that the line looks as if all were: in each column of pixels the first, the lowest, the
 * highest and the last.
 * @param {ArrayLike<number>} xs Rising.
 * @param {ArrayLike<number>} ys
 * @param {(x: number) => number} map To pixels.
 * @returns {number[]} Indices, rising.
 */
export function decimate(xs, ys, map) {
  /** @type {number[]} */
  const kept = [];
  let start = 0;
  while (start < xs.length) {
    const column = Math.floor(map(xs[start]));
    let end = start;
    let lowest = start;
    let highest = start;
    while (end + 1 < xs.length && Math.floor(map(xs[end + 1])) === column) {
      end += 1;
      if (ys[end] < ys[lowest]) lowest = end;
      if (ys[end] > ys[highest]) highest = end;
    }
    for (const index of [start, Math.min(lowest, highest), Math.max(lowest, highest), end]) {
      if (kept.length === 0 || index > kept[kept.length - 1]) kept.push(index);
    }
    start = end + 1;
  }
  return kept;
}

/**
 * The `d` of an SVG path through points; it is broken where a point has no place.
 * @param {ArrayLike<number>} xs
 * @param {ArrayLike<number>} ys
 * @param {Scale} across
 * @param {Scale} up
 * @param {number[]} indices
 * @returns {string}
 */
export function path(xs, ys, across, up, indices = decimate(xs, ys, across.map)) {
  let pen = "M";
  let result = "";
  for (const index of indices) {
    const y = up.map(ys[index]);
    if (Number.isFinite(y)) result += `${pen}${across.map(xs[index]).toFixed(1)} ${y.toFixed(1)}`;
    pen = Number.isFinite(y) ? "L" : "M";
  }
  return result;
}

/**
 * The index of the value nearest to a given one.
 * @param {ArrayLike<number>} values Rising.
 * @param {number} wanted
 * @returns {number} -1 of none.
 */
export function nearest(values, wanted) {
  let low = 0;
  let high = values.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle;
    else high = middle;
  }
  return high < 0 || Math.abs(values[low] - wanted) <= Math.abs(values[high] - wanted) ? Math.min(low, high) : high;
}
