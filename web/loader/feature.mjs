// @ts-check
/**
 * Nodes that load an adapter show what they hold, and find another by parts of its name; nodes that apply one show how
 * much of it fits.
 */
import { element } from "../dom.mjs";
import { LOADERS } from "../drop/place.mjs";
import { chain } from "../graph.mjs";
import { api, app, locale } from "../host.mjs";
import { translator } from "../texts.mjs";
import { coverageLine, note } from "./card.mjs";
import { Holder } from "./holder.mjs";
import { TEXTS } from "./texts.mjs";

const t = translator(TEXTS, locale);
const APPLIERS = ["KronaLoadApply", "KronaApply"];
const WIDTH = 320;
/** The height of a loader's card, and the least one, which it has in graphs that were saved before there was a card. */
const COMFORTABLE = 172;
const LEAST = 104;
const LINE = 34;
const MARGIN = 10;
/** @type {Set<Holder>} */
const holders = new Set();

/** What the browser registers for this feature. */
export const loader = {
  name: "KronA.Loader",
  setup() {
    // Values that nobody announces, such as those of a subgraph's promoted widgets.
    api.addEventListener("graphChanged", () => holders.forEach((holder) => holder.check()));
    knowSavedFiles();
  },
  /** @param {any} node */
  nodeCreated(node) {
    const isLoader = LOADERS.includes(node.comfyClass);
    if (!isLoader && !APPLIERS.includes(node.comfyClass)) return;
    const coverage = APPLIERS.includes(node.comfyClass)
      ? element("div", { class: "krona-fit" }, note(t("notRun")))
      : null;
    if (isLoader) attachLoader(node, coverage);
    else addPlace(node, element("div", { class: "krona-card krona-fit-only" }, coverage), LINE);
    if (coverage) showCoverage(node, coverage);
  },
};

/**
 * Once a graph that saves adapters has run, have the menus know them: a graph that is opened next and names one, as
 * the example that applies what the one before has trained, would have errors for the editor, and "Error" on its nodes.
 */
function knowSavedFiles() {
  let isAnySaved = false;
  api.addEventListener("executed", (/** @type {CustomEvent} */ event) => {
    const files = event.detail?.output?.files ?? [];
    isAnySaved ||= files.some((/** @type {{filename?: string}} */ file) => file.filename?.endsWith(".safetensors"));
  });
  for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
    api.addEventListener(end, () => {
      if (isAnySaved) renewMenus().catch((error) => console.warn("KronA: the menus could not be renewed.", error));
      isAnySaved = false;
    });
  }
}

/** As R does; without its messages, where the editor can. */
async function renewMenus() {
  await (app.reloadNodeDefs ?? app.refreshComboInNodes).call(app);
}

/** @param {any} node @param {HTMLElement | null} coverage */
function attachLoader(node, coverage) {
  const holder = new Holder(node, t, () => coverage?.replaceChildren(note(t("notRun"))));
  const inner = element("div", { class: "krona-loader-inner" }, holder.controls, holder.facts, coverage);
  const resize = addPlace(node, element("div", { class: "krona-card krona-loader" }, inner), COMFORTABLE);
  holders.add(holder);
  chain(node, "onRemoved", () => holders.delete(holder));
  chain(node, "onAdded", () => holders.add(holder)); // a node of an open subgraph is taken out and put in again
  chain(node, "onConfigure", (/** @type {any} */ saved) => {
    holder.check();
    const missing = node.computeSize()[1] - (saved?.size?.[1] ?? Infinity);
    if (missing > 0) resize(Math.max(LEAST, COMFORTABLE - missing));
  });
  node.onDragOver ??= (/** @type {DragEvent} */ event) =>
    [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
}

/**
 * A widget that is neither saved nor sent: what is in a saved graph keeps its order.
 * @param {any} node @param {HTMLElement} place @param {number} height
 * @returns {(height: number) => void} Gives it another height.
 */
function addPlace(node, place, height) {
  const resize = (/** @type {number} */ other) => {
    height = other;
    place.style.setProperty("--krona-height", `${height}px`);
  };
  resize(height);
  const widget = node.addDOMWidget("krona_info", "krona_info", place, {
    serialize: false,
    getMinHeight: () => height + 2 * MARGIN,
    margin: MARGIN,
  });
  widget.serialize = false; // the option is about what is sent, this about what is saved
  const [width, least] = node.computeSize();
  node.setSize([Math.max(width, WIDTH), Math.max(node.size[1], least)]);
  return resize;
}

/** @param {any} node @param {HTMLElement} place */
function showCoverage(node, place) {
  chain(node, "onExecuted", (/** @type {any} */ output) => {
    const coverage = output?.krona_coverage?.[0];
    if (coverage) place.replaceChildren(coverageLine(coverage, t));
  });
}
