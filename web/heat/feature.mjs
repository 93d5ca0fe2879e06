// @ts-check
/** Inspect KronA in the browser: the heat map on the node can be pointed at, and a click sets a block's strength. */
import { element } from "../dom.mjs";
import { app, locale, toast } from "../host.mjs";
import { translator } from "../texts.mjs";
import { heatTable } from "./map.mjs";
import { strengthOf, withStrength } from "./rules.mjs";
import { askStrength } from "./strength.mjs";
import { TEXTS } from "./texts.mjs";
import { couldTakeWeights, weightsNodes } from "./wiring.mjs";

const t = translator(TEXTS, locale);
const WIDTH = 460;
const HEIGHT = 380;
const GAP = 60;

/** What the browser registers for this feature. */
export const heat = {
  name: "KronA.HeatMap",
  /** @param {any} node */
  nodeCreated(node) {
    if (node.comfyClass === "KronaInspect") attach(node);
  },
};

/** @param {any} node */
function attach(node) {
  const place = element("div", { class: "krona-card krona-heat-card" }, element("p", { class: "krona-heat-readout" }, t("empty")));
  place.addEventListener("wheel", (/** @type {WheelEvent} */ event) => event.stopPropagation()); // scroll the table, not the canvas
  node.addDOMWidget("krona_heat", "krona_heat", place, { serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT });
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])]);
  const { onExecuted } = node;
  node.onExecuted = function (/** @type {any} */ output, /** @type {any[]} */ ...rest) {
    onExecuted?.call(this, output, ...rest);
    const grid = output?.krona_grid?.[0];
    if (grid) show(node, place, grid);
  };
}

/** @param {any} node @param {HTMLElement} place @param {import("./map.mjs").Grid} grid */
function show(node, place, grid) {
  if (!grid.blocks.length) {
    place.replaceChildren(element("p", { class: "krona-heat-readout" }, t("unmeasured")));
    return;
  }
  const scrolled = place.querySelector(".krona-heat-scroll")?.scrollTop ?? 0;
  const rules = weightsNodes(node).map(rulesOf);
  const strength = (/** @type {string} */ selector) => rules.map((widget) => strengthOf(String(widget.value), selector)).find((found) => found !== null) ?? null;
  place.replaceChildren(heatTable(grid, { t, isDark: isDark(place), strength, choose: (row) => void choose(node, place, grid, row) }));
  /** @type {HTMLElement} */ (place.querySelector(".krona-heat-scroll")).scrollTop = scrolled;
}

/** @param {any} node @param {HTMLElement} place @param {import("./map.mjs").Grid} grid @param {number} row */
async function choose(node, place, grid, row) {
  const nodes = weightsNodes(node);
  if (!nodes.length && !addWeights(node)) return;
  const found = nodes.length ? nodes : weightsNodes(node);
  const selector = grid.selectors[row];
  const strength = strengthOf(String(rulesOf(found[0]).value), selector) ?? 1;
  const question = { block: grid.blocks[row], strength, nodes: found.map((n, value) => ({ label: `${n.title} (${n.id})`, value })) };
  const answer = await askStrength(question, t);
  if (answer) {
    const widget = rulesOf(found[answer.node]);
    node.graph.beforeChange();
    widget.value = withStrength(String(widget.value), selector, answer.strength);
    widget.callback?.(widget.value);
    node.graph.afterChange();
    app.canvas.setDirty(true, true);
  }
  show(node, place, grid);
  /** @type {HTMLElement | null} */ (place.querySelectorAll("tbody button")[row])?.focus();
}

/** A new KronA Weights where one can act on the adapter; whether there is one. @param {any} node */
function addWeights(node) {
  const user = couldTakeWeights(node);
  if (!user) {
    toast("info", t("impossible"));
    return false;
  }
  const made = /** @type {any} */ (window).LiteGraph.createNode("KronaWeights");
  node.graph.beforeChange();
  made.pos = [user.pos[0] - made.size[0] - GAP, user.pos[1]];
  made.pos[1] = below(node.graph, made);
  node.graph.add(made);
  rulesOf(made).value = ""; // the editor may hand a new node the text of one that had its number in a graph before
  made.connect(0, user, "weights");
  node.graph.afterChange();
  return true;
}

/** The height at which a node covers none of those that stand where it would. @param {any} graph @param {any} made */
function below(graph, made) {
  const [left, top] = made.pos;
  const beside = graph.nodes.filter((/** @type {any} */ n) => n.pos[0] < left + made.size[0] && n.pos[0] + n.size[0] > left);
  const bottoms = beside.map((/** @type {any} */ n) => n.pos[1] + n.size[1] + GAP);
  return Math.max(top, ...bottoms);
}

/** @param {any} node */
function rulesOf(node) {
  return node.widgets.find((/** @type {any} */ widget) => widget.name === "rules");
}

/** Whether the text there is light, which it is on dark grounds. @param {HTMLElement} place */
function isDark(place) {
  const channels = getComputedStyle(place).color.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
  return channels[0] + channels[1] + channels[2] > 384;
}
