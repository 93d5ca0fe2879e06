// @ts-check
/** Another file for a loader, from this computer. */
import { inOneStep } from "../graph.mjs";
import { app, locale, toast } from "../host.mjs";
import { translator } from "../texts.mjs";
import { examine } from "./examine.mjs";
import { chooseBoth, chooseOther, completedBy } from "./halves.mjs";
import { chooseFiles } from "./picker.mjs";
import { loadedAs } from "./place.mjs";
import { sendAll } from "./send.mjs";
import { TEXTS } from "./texts.mjs";

const t = translator(TEXTS, locale);

/** Let a person choose a file, send it, and let the node hold it. @param {any} node */
export async function replaceFile(node) {
  const [file] = await chooseFiles({ isMultiple: false });
  if (!file) return;
  const verdict = await examine(file);
  if (verdict.act === "refuse") toast("warn", t(verdict.text, verdict.values));
  if (verdict.act === "leave") toast("warn", t("noAdapter", { file: file.name }));
  if (verdict.act !== "load") return;
  const [name] = await sendAll([file]);
  if (!name || !node.graph) return;
  const loaded = loadedAs(name, verdict.facts);
  const choose = (await completedBy(loaded, node)) ? chooseOther : chooseBoth;
  if (node.graph === app.canvas.graph) await inOneStep(() => choose(node, loaded));
  else choose(node, loaded);
}
