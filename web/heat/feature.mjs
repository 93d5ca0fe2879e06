// @ts-check
/** Inspect KronA in the browser: the heat map on the node can be pointed at, and a click sets a block's strength. */
import { element } from "../dom.mjs";
import { addNode, chain, inOneStep, setValue, widgetOf } from "../graph.mjs";
import { locale, toast } from "../host.mjs";
import { leftOf } from "../places.mjs";
import { translator } from "../texts.mjs";
import { heatTable } from "./map.mjs";
import { strengthOf, withStrength } from "./rules.mjs";
import { askStrength } from "./strength.mjs";
import { TEXTS } from "./texts.mjs";
import { couldTakeWeights, weightsNodes } from "./wiring.mjs";

const t = translator(TEXTS, locale);
const WIDTH = 460;
const HEIGHT = 380;

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
  const place = element(
    "div",
    { class: "krona-card krona-heat-card" },
    element("p", { class: "krona-heat-readout" }, t("empty")),
  );
  // The wheel scrolls the table, not the canvas.
  place.addEventListener("wheel", (/** @type {WheelEvent} */ event) => event.stopPropagation());
  node.addDOMWidget("krona_heat", "krona_heat", place, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
  });
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])]);
  chain(node, "onExecuted", (/** @type {any} */ output) => {
    const grid = output?.krona_grid?.[0];
    if (grid) show(node, place, grid);
  });
}

/** @param {any} node @param {HTMLElement} place @param {import("./map.mjs").Grid} grid */
function show(node, place, grid) {
  if (!grid.blocks.length) {
    place.replaceChildren(element("p", { class: "krona-heat-readout" }, t("unmeasured")));
    return;
  }
  const scrolled = place.querySelector(".krona-heat-scroll")?.scrollTop ?? 0;
  const rules = weightsNodes(node).map(rulesOf);
  const strength = (/** @type {string} */ selector) =>
    rules.map((widget) => strengthOf(String(widget.value), selector)).find((number) => number !== null) ?? null;
  place.replaceChildren(
    heatTable(grid, { t, isDark: isDark(place), strength, choose: (row) => void choose(node, place, grid, row) }),
  );
  /** @type {HTMLElement} */ (place.querySelector(".krona-heat-scroll")).scrollTop = scrolled;
}

/** @param {any} node @param {HTMLElement} place @param {import("./map.mjs").Grid} grid @param {number} row */
async function choose(node, place, grid, row) {
  const there = weightsNodes(node);
  if (!there.length && !addWeights(node)) return;
  const nodes = there.length ? there : weightsNodes(node);
  const selector = grid.selectors[row];
  const strength = strengthOf(String(rulesOf(nodes[0]).value), selector) ?? 1;
  const question = {
    block: grid.blocks[row],
    strength,
    nodes: nodes.map((n, value) => ({ label: `${n.title} (${n.id})`, value })),
  };
  const answer = await askStrength(question, t);
  if (answer) {
    const weights = nodes[answer.node];
    const rules = withStrength(String(rulesOf(weights).value), selector, answer.strength);
    void inOneStep(() => setValue(weights, "rules", rules));
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
  // Rules are set although they are empty: the editor may give a new node the text of an old one with the same number.
  const how = {
    at: leftOf(user, [...node.graph.nodes]),
    values: { rules: "" },
    into: { node: user, input: "weights" },
  };
  void inOneStep(() => addNode(node.graph, "KronaWeights", how));
  return true;
}

/** @param {any} node */
function rulesOf(node) {
  return widgetOf(node, "rules");
}

/** Whether the text there is light, which it is on dark grounds. @param {HTMLElement} place */
function isDark(place) {
  const channels = getComputedStyle(place)
    .color.match(/[\d.]+/g)
    ?.map(Number) ?? [255, 255, 255];
  return channels[0] + channels[1] + channels[2] > 384;
}
