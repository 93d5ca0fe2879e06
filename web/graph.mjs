// @ts-check
/**
 * Changing the graph on the canvas: making a node, giving a widget a value, and doing all of it as one step that Ctrl+Z
 * takes back.
 */
import { app } from "./host.mjs";

/**
 * Make a node in a graph. Every node that the pack adds is made here.
 * @param {any} graph
 * @param {string} type As the server calls it, such as `KronaLoad`.
 * @param {object} how
 * @param {(node: any) => number[]} how.at The upper left corner of the node below its title, chosen when its size is
 *   known.
 * @param {Record<string, unknown>} [how.values] What its widgets hold, by name; the others keep their defaults.
 * @param {{node: any, input: string}} [how.into] Where its first output goes.
 * @returns {any} The node.
 */
export function addNode(graph, type, { at, values = {}, into }) {
  const node = /** @type {any} */ (window).LiteGraph.createNode(type);
  graph.add(node);
  node.pos = at(node);
  for (const [name, value] of Object.entries(values)) setValue(node, name, value);
  if (into) node.connect(0, into.node, into.input);
  return node;
}

/** @param {any} node @param {string} name @returns {any} The widget of that name; undefined where there is none. */
export function widgetOf(node, name) {
  return node.widgets.find((/** @type {any} */ widget) => widget.name === name);
}

/**
 * Give a widget a value as a person would, so that whoever watches it hears of it.
 * @param {any} node
 * @param {string} name
 * @param {unknown} value
 */
export function setValue(node, name, value) {
  const widget = widgetOf(node, name);
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

/** Select these nodes and no others. @param {any[]} nodes */
export function select(nodes) {
  app.canvas.deselectAll?.();
  app.canvas.selectItems?.(nodes);
}

/**
 * Do something after what a node does already.
 * @param {any} node
 * @param {string} method
 * @param {(...values: any[]) => void} then
 */
export function chain(node, method, then) {
  const before = node[method];
  node[method] = function (/** @type {any[]} */ ...values) {
    const answer = before?.apply(this, values);
    then(...values);
    return answer;
  };
}

/**
 * Change the open graph in one step for Ctrl+Z. Where nodes are Vue components they get their size from the page some
 * frames later; that belongs to the step, or the first Ctrl+Z would only take back the size.
 * @param {() => void} change Runs before this returns; what is awaited is the end of the step.
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

/**
 * Until no node of the open graph has changed its size for some frames, or a key is pressed: Ctrl+Z must find the step
 * complete.
 */
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

/**
 * The next frame, or a tenth of a second: a page that is not seen draws none.
 * @param {AbortSignal} signal Ends the waiting.
 * @returns {Promise<void>}
 */
function frame(signal) {
  return new Promise((resolve) => {
    requestAnimationFrame(() => resolve());
    setTimeout(resolve, 100);
    signal.addEventListener("abort", () => resolve());
  });
}
