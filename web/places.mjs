// @ts-check
/**
 * Where a new node goes. A node's `pos` is its upper left corner below the title, its `size` is without the title;
 * nothing here changes a node, and nothing needs a browser.
 */

/** The height of a node's title. */
export const TITLE = 30;
/** Between nodes that are wired to each other. */
export const GAP = 60;
/** The least between nodes that are not. */
const AIR = GAP / 3;
const STEP = 20;
/** Beyond that the nodes would not be found; then they lie over others. */
const MOST_DOWN = 2000;

/** @typedef {{pos: ArrayLike<number>, size: ArrayLike<number>}} Box A node, as far as its place is concerned. */
/** @typedef {(node: Box) => number[]} Place The position of a node of some size. */

/** With the title under a point, in the middle of it. @param {ArrayLike<number>} point @returns {Place} */
export function under(point) {
  return ({ size }) => [point[0] - size[0] / 2, point[1] + TITLE / 2];
}

/** In the middle of an area. @param {number[]} area `[x, y, width, height]`. @returns {Place} */
export function inTheMiddleOf([x, y, width, height]) {
  return ({ size }) => [x + (width - size[0]) / 2, y + (height - size[1]) / 2];
}

/**
 * To the left of a node, and below all others that stand there.
 * @param {Box} user
 * @param {Box[]} others
 * @returns {Place}
 */
export function leftOf(user, others) {
  return ({ size }) => {
    const left = user.pos[0] - size[0] - GAP;
    const inTheWay = others.filter((other) => other.pos[0] < left + size[0] && other.pos[0] + other.size[0] > left);
    return [left, Math.max(user.pos[1], ...inTheWay.map((other) => other.pos[1] + other.size[1] + GAP))];
  };
}

/**
 * Sources in a column, what joins them beside it, both to the left of the node that takes them, as far down as there is
 * room.
 * @param {Box[]} sources @param {Box} joint @param {Box} taker
 * @param {Box[]} nodes Of the graph; these among them do not count.
 * @returns {{sources: number[][], joint: number[]}} Their positions.
 */
export function joined(sources, joint, taker, nodes) {
  const own = new Set([...sources, joint, taker]);
  const others = nodes.filter((node) => !own.has(node));
  const left = taker.pos[0] - GAP - joint.size[0];
  for (let top = taker.pos[1]; ; top += STEP) {
    const places = { sources: column(sources, left - GAP, top), joint: [left, top] };
    const moved = [
      { pos: places.joint, size: joint.size },
      ...sources.map(({ size }, number) => ({ pos: places.sources[number], size })),
    ];
    const isFree = moved.every((node) => !others.some((other) => overlap(node, other)));
    if (isFree || top > taker.pos[1] + MOST_DOWN) return places;
  }
}

/** Whether two nodes, with their titles and a little air, share a place. @param {Box} one @param {Box} other */
export function overlap(one, other) {
  const isApart = (/** @type {number} */ axis, /** @type {number} */ between) =>
    one.pos[axis] + one.size[axis] + between <= other.pos[axis] ||
    other.pos[axis] + other.size[axis] + between <= one.pos[axis];
  return !isApart(0, AIR) && !isApart(1, TITLE + AIR);
}

/**
 * Nodes one below the other.
 * @param {Box[]} nodes
 * @param {number} right Where they end.
 * @param {number} top Where they begin.
 */
function column(nodes, right, top) {
  return nodes.map(({ size }) => {
    const place = [right - size[0], top];
    top += size[1] + TITLE + AIR;
    return place;
  });
}
