// @ts-check
/** Adapter files that are dropped on the canvas, or chosen with the command of the same purpose. */
import { inOneStep } from "../graph.mjs";
import { app, locale, toast } from "../host.mjs";
import { translator } from "../texts.mjs";
import { examine } from "./examine.mjs";
import { chooseBoth, chooseOther, completedBy, inPairs } from "./halves.mjs";
import { modelWiresAt } from "./links.mjs";
import { isForUs } from "./names.mjs";
import { addOne, addSeveral, loadedAs, loaderAt } from "./place.mjs";
import { chooseFiles } from "./picker.mjs";
import { askWhatToDo } from "./question.mjs";
import { LARGEST, SETTING, sendAll } from "./send.mjs";
import { TEXTS } from "./texts.mjs";

const t = translator(TEXTS, locale);

/** What the browser registers for this feature. */
export const drop = {
  name: "KronA.Drop",
  settings: [
    {
      id: SETTING,
      // Its words in other languages are in locales/, as all settings' are.
      name: "KronA: Largest file to upload",
      tooltip:
        "In megabytes. Adapters that are dropped on the canvas, or chosen with a loader's Upload button, are sent up to this size.",
      type: "number",
      defaultValue: LARGEST,
      attrs: { min: 1, step: 1 },
    },
  ],
  commands: [
    { id: "KronA.AddFiles", label: () => t("command"), icon: "pi pi-upload", function: () => void addFiles() },
  ],
  menuCommands: [{ path: ["Extensions", "KronA"], commands: ["KronA.AddFiles"] }],
  setup() {
    // In the capture phase, before ComfyUI looks at the files; it leaves an event alone whose default is prevented.
    window.addEventListener("drop", onDrop, true);
  },
};

/** @param {DragEvent} event */
function onDrop(event) {
  const files = [...(event.dataTransfer?.files ?? [])];
  const isElsewhere = /** @type {Element} */ (event.target).closest?.("dialog, [role=dialog], .p-dialog");
  if (event.defaultPrevented || isElsewhere || !isForUs(files)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  endDrag(event);
  const point = app.canvas.convertEventToCanvasOffset(event);
  void take(files, point);
}

/**
 * ComfyUI marks the node under a drag and unmarks it at the end, which it does not hear of any more.
 * @param {DragEvent} event
 */
function endDrag(event) {
  app.dragOverNode = null;
  event.target?.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
}

/** As if dropped in the middle of the canvas. */
async function addFiles() {
  const files = await chooseFiles({ isMultiple: true });
  const box = app.canvas.canvas.getBoundingClientRect();
  const middle = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  if (files.length) await take(files, app.canvas.convertEventToCanvasOffset(middle));
}

/** @param {File[]} files @param {number[]} point Of the open graph. */
async function take(files, point) {
  const place = where(point);
  const verdicts = await Promise.all(files.map(examine));
  for (const verdict of verdicts) if (verdict.act === "refuse") toast("warn", t(verdict.text, verdict.values));
  const adapters = verdicts.filter((verdict) => verdict.act === "load");
  if (adapters.length) await load(/** @type {any[]} */ (adapters), place);
  for (const verdict of verdicts) if (verdict.act === "leave") await app.handleFile(verdict.file, "file_drop");
}

/** What lies under the pointer; later it may be elsewhere, or gone. @param {number[]} point */
function where(point) {
  const workflow = app.extensionManager.workflow?.activeWorkflow;
  return { point, graph: app.canvas.graph, workflow, loader: loaderAt(point), wires: modelWiresAt(app.canvas, point) };
}

/**
 * @param {Extract<import("./examine.mjs").Verdict, {act: "load"}>[]} adapters
 * @param {ReturnType<typeof where>} place
 */
async function load(adapters, place) {
  const [only] = adapters;
  if (adapters.length === 1 && only.facts.hasWorkflow && !place.loader) {
    const answer = await askWhatToDo(only.file.name, t);
    if (answer === "open") await app.handleFile(only.file, "file_drop");
    if (answer !== "load") return;
  }
  const sent = await sendAll(adapters.map((adapter) => adapter.file));
  const files = adapters.flatMap((adapter, number) => {
    const name = sent[number];
    return name === null ? [] : [loadedAs(name, adapter.facts)];
  });
  if (files.length) await put(inPairs(files), place);
}

/** @param {import("./place.mjs").Loaded[]} files @param {ReturnType<typeof where>} place */
async function put(files, place) {
  const { point, graph, loader } = place;
  const completed = files.length === 1 ? await completedBy(files[0], loader) : null;
  if (app.canvas.graph !== graph || app.extensionManager.workflow?.activeWorkflow !== place.workflow) {
    toast("info", t("moved", { name: files.map((file) => file.name).join(", ") }));
    return;
  }
  const wires = place.wires.filter((wire) => graph.getLink(wire.id) === wire);
  await inOneStep(() => {
    if (completed?.graph === graph) chooseOther(completed, files[0]);
    else if (loader?.graph === graph && files.length === 1) chooseBoth(loader, files[0]);
    else if (files.length === 1) addOne(files[0], point, wires);
    else addSeveral(files, point, wires);
  });
  if (completed) toast("info", t("completed", { name: files[0].name, title: completed.title }));
}
