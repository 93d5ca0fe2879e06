// @ts-check
/** What a drop does to the graph: one step that Ctrl+Z takes back. */
import { app } from "../host.mjs";
import { insert } from "./links.mjs";

/** The nodes that hold a file, by type. */
export const LOADERS = ["KronaLoad", "KronaLoadApply"];
const GAP = 60;
const TITLE = 30;

/** @typedef {{name: string, hasTextEncoder: boolean}} Loaded A file in the loaders' menu. */

/** The loader of ours at a point of the open graph. @param {number[]} point @returns {any} */
export function loaderAt([x, y]) {
  const node = app.canvas.graph.getNodeOnPos(x, y);
  return LOADERS.includes(node?.comfyClass) ? node : null;
}

/**
 * Change the graph in one step for Ctrl+Z. Where nodes are Vue components they get their size from the page some frames later; that belongs to the
 * step, or the first Ctrl+Z would only take back the size.
 * @param {() => void} change
 */
export async function inOneStep(change) {
  app.canvas.emitBeforeChange();
  try {
    change();
    app.canvas.setDirty(true, true);
    await settled();
  } finally {
    app.canvas.emitAfterChange();
  }
}

const STILL_FRAMES = 4;
const MOST_MILLISECONDS = 600;

/** Until no node of the open graph has changed its size for some frames, or a key is pressed: Ctrl+Z must find the step complete. */
async function settled() {
  const end = performance.now() + MOST_MILLISECONDS;
  const hurry = new AbortController();
  const { signal } = hurry;
  window.addEventListener("keydown", () => hurry.abort(), { capture: true, signal });
  let [before, still] = ["", 0];
  while (still < STILL_FRAMES && performance.now() < end && !signal.aborted) {
    await frame(signal);
    const now = app.canvas.graph.nodes.map((/** @type {any} */ node) => String(node.size)).join(" ");
    still = now === before ? still + 1 : 0;
    before = now;
  }
  hurry.abort();
}

/** The next one; a page that is not seen draws none, so that a timer goes on. @param {AbortSignal} signal Ends the waiting. @returns {Promise<void>} */
function frame(signal) {
  return new Promise((resolve) => {
    requestAnimationFrame(() => resolve());
    setTimeout(resolve, 100);
    signal.addEventListener("abort", () => resolve());
  });
}

/** @param {any} node @param {string} name */
export function chooseFile(node, name) {
  const widget = node.widgets.find((/** @type {any} */ one) => one.name === "file");
  widget.value = name;
  widget.callback?.(name, app.canvas, node);
}

/**
 * One node that loads and applies a file, under the pointer, and in the wires that are there.
 * @param {Loaded} file @param {number[]} point @param {any[]} wires
 */
export function addOne(file, point, wires) {
  const node = add("KronaLoadApply", point);
  node.pos = [point[0] - node.size[0] / 2, point[1] + TITLE / 2];
  chooseFile(node, file.name);
  if (wires.length) insert(app.canvas.graph, wires, node, file.hasTextEncoder);
  select([node]);
}

/**
 * Several files as one: a column of loaders, a blend, and a node under the pointer that applies it.
 * @param {Loaded[]} files @param {number[]} point @param {any[]} wires
 */
export function addBlend(files, point, wires) {
  const apply = add("KronaApply", point);
  apply.pos = [point[0] - apply.size[0] / 2, point[1] + TITLE / 2];
  const blend = add("KronaBlend", point);
  const loaders = files.map((file, number) => {
    const loader = add("KronaLoad", point);
    chooseFile(loader, file.name);
    loader.connect(0, blend, `adapters.krona${number}`);
    return loader;
  });
  arrange(loaders, blend, apply);
  blend.connect(0, apply, "krona");
  const hasTextEncoder = files.some((file) => file.hasTextEncoder);
  if (wires.length) insert(app.canvas.graph, wires, apply, hasTextEncoder);
  select([...loaders, blend, apply]);
}

/** @param {string} kind @param {number[]} point */
function add(kind, point) {
  const node = /** @type {any} */ (window).LiteGraph.createNode(kind);
  node.pos = [...point];
  app.canvas.graph.add(node);
  return node;
}

/**
 * Loaders in a column, the blend beside them, both to the left of the node that applies it, as far down as there is room.
 * @param {any[]} loaders @param {any} blend @param {any} apply
 */
function arrange(loaders, blend, apply) {
  const made = new Set([...loaders, blend, apply]);
  const others = app.canvas.graph.nodes.filter((/** @type {any} */ node) => !made.has(node));
  const left = apply.pos[0] - GAP - blend.size[0];
  for (let top = apply.pos[1]; ; top += STEP) {
    blend.pos = [left, top];
    stack(loaders, left - GAP, top);
    const isFree = [...loaders, blend].every((node) => !others.some((/** @type {any} */ other) => overlap(node, other)));
    if (isFree || top > apply.pos[1] + MOST_DOWN) return;
  }
}
const STEP = 20;
/** Beyond that the nodes would not be found; then they lie over others. */
const MOST_DOWN = 2000;

/** Whether two nodes, with their titles and a little air, share a place. @param {any} one @param {any} other */
function overlap(one, other) {
  const air = GAP / 3;
  const isBeside = one.pos[0] + one.size[0] + air <= other.pos[0] || other.pos[0] + other.size[0] + air <= one.pos[0];
  const isBelow = one.pos[1] + one.size[1] + TITLE + air <= other.pos[1] || other.pos[1] + other.size[1] + TITLE + air <= one.pos[1];
  return !isBeside && !isBelow;
}

/** A column that ends at `right` and begins at `top`. @param {any[]} nodes @param {number} right @param {number} top */
function stack(nodes, right, top) {
  for (const node of nodes) {
    node.pos = [right - node.size[0], top];
    top += node.size[1] + TITLE + GAP / 3;
  }
}

/** @param {any[]} nodes */
function select(nodes) {
  app.canvas.deselectAll?.();
  app.canvas.selectItems?.(nodes);
}
