// @ts-check
/** The trainings in the browser: a panel below the graph, and a small chart in each node that trains. */
import { addNode, chain, inOneStep, select } from "../graph.mjs";
import { api, app, ask, locale, toast } from "../host.mjs";
import { inTheMiddleOf } from "../places.mjs";
import { translator } from "../texts.mjs";
import { Live } from "./live.mjs";
import { Card } from "./node.mjs";
import { Panel } from "./panel.mjs";
import { TEXTS } from "./texts.mjs";

const TAB = "krona-training";
const SHOW = "KronA.ShowTrainings";
const OPTIONS = "krona.training.options";
/** Nodes that train: each has a chart of its own. */
const TRAINS = new Set(["KronaTrain", "KronaDistill"]);
const DEFAULTS = { smoothing: 0.9, isLogarithmic: false };

const t = translator(TEXTS, locale);
/** @type {Live | null} */
let live = null;
/** @type {Panel | null} */
let panel = null;

/** What the browser registers for this feature. */
export const training = {
  name: "KronA.Training",
  commands: [{ id: SHOW, label: "KronA: show trainings", icon: "pi pi-chart-line", function: () => toggle() }],
  keybindings: [{ combo: { key: "k", shift: true }, commandId: SHOW }],
  menuCommands: [{ path: ["View"], commands: [SHOW] }],
  bottomPanelTabs: [{ id: TAB, title: "KronA", type: "custom", render, destroy }],
  setup() {
    void store().refresh();
  },
  /** @param {any} node */
  nodeCreated(node) {
    if (TRAINS.has(node.comfyClass)) attach(node);
  },
};

/** One for the panel and all nodes. */
function store() {
  live ??= new Live({
    ask,
    listen: (event, heard) => api.addEventListener(event, (/** @type {any} */ { detail }) => heard(detail)),
  });
  return live;
}

/** @param {string} run @param {import("./history.mjs").Preview} preview @param {number} number */
function picture(run, preview, number) {
  // The row's number: a step that a resumed run has done again has another picture at the same address.
  return api.apiURL(`/krona/runs/${encodeURIComponent(run)}/previews/${preview.step}/${number}?row=${preview.row}`);
}

/** ComfyUI calls this whenever it draws the tab anew. @param {HTMLElement} place */
function render(place) {
  panel ??= new Panel({ live: store(), t, picture, load, options });
  if (panel.element.parentElement === place) return;
  place.classList.add("krona-training-place");
  place.replaceChildren(panel.element); // another tab may have been in front of it meanwhile
  panel.show();
}

function destroy() {
  panel?.end();
  panel?.element.remove();
  panel = null;
}

function toggle() {
  app.extensionManager.bottomPanel.toggleBottomPanelTab(TAB);
}

/** Show the panel, with a run. @param {string | null} run */
function open(run) {
  if (!panel?.element.isConnected) toggle();
  requestAnimationFrame(() => run !== null && panel?.select(run));
}

const options = {
  /** @returns {import("./panel.mjs").Options} */
  read() {
    try {
      return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(OPTIONS) ?? "{}") };
    } catch {
      return DEFAULTS; // storage may be forbidden
    }
  },
  /** @param {import("./panel.mjs").Options} chosen */
  write(chosen) {
    try {
      localStorage.setItem(OPTIONS, JSON.stringify(chosen));
    } catch {
      // It lasts as long as the page.
    }
  },
};

/** Add a node with an adapter to the middle of what is seen of the graph. @param {string} adapter */
async function load(adapter) {
  await app.refreshComboInNodes(); // the file may be younger than the menus
  const { graph, visible_area } = app.canvas;
  void inOneStep(() =>
    select([addNode(graph, "KronaLoad", { at: inTheMiddleOf(visible_area), values: { file: adapter } })]),
  );
  toast("success", t("loaded", { adapter }));
}

/** @param {any} node */
function attach(node) {
  const card = new Card({
    live: store(),
    t,
    picture,
    isMine: (run) => run.node !== null && nodeOf(run.node) === node,
    last: () => node.properties.krona_run ?? null,
    remember: (id) => (node.properties.krona_run = id),
    open,
    resized: () => fit(node),
  });
  const widget = node.addDOMWidget("krona_chart", "krona_chart", card.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => card.height,
    getMaxHeight: () => card.height,
  });
  widget.serialize = false; // the options' one is about the prompt, this one about the saved graph
  chain(node, "onExecuted", (output) => {
    if (output?.krona_run?.[0]) node.properties.krona_run = output.krona_run[0];
    card.show();
  });
  chain(node, "onConfigure", () => card.show());
  chain(node, "onRemoved", () => card.end());
  fit(node);
}

/** Make the node as large as its widgets need, not smaller; drawn by Vue, it does so itself. @param {any} node */
function fit(node) {
  if (/** @type {any} */ (window).LiteGraph.vueNodesMode) return;
  const [width, height] = node.computeSize();
  if (node.size[1] < height || node.size[0] < width)
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  app.canvas?.setDirty(true, true);
}

/** The node behind an id as the server says it: "5:3" is node 3 in the subgraph that is node 5. @param {string} id */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of id.split(":")) {
    node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return node;
}
