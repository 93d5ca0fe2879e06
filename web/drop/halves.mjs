// @ts-check
/** Two files that are one adapter, dropped together or one after the other: one loader holds both. */
import { isPair } from "../adapter/pair.mjs";
import { setValue, widgetOf } from "../graph.mjs";
import { app, ask } from "../host.mjs";

/**
 * @typedef {import("./place.mjs").Loaded} Loaded
 * @typedef {{half: import("../adapter/pair.mjs").Half, levels: number}} Part
 */

/** The loaders that take a second file. */
const LOADERS = ["KronaLoad", "KronaLoadApply"];
/** What a menu has for no file, where a node does without one. */
const NONE = "(none)";

/**
 * Files, those that belong together as one of them with the `other`.
 * @param {Loaded[]} files @returns {Loaded[]}
 */
export function inPairs(files) {
  const left = [...files];
  const made = [];
  for (let file = left.shift(); file; file = left.shift()) {
    const first = file;
    const number = left.findIndex((second) => isPair(first, second));
    const [other] = number < 0 ? [] : left.splice(number, 1);
    made.push(other ? { ...file, other: other.name, half: /** @type {const} */ (""), levels: 0 } : file);
  }
  return made;
}

/**
 * The loader that a file completes: the one under the pointer, or of the open graph's the one that was added last. Null
 * where none holds the other file and no second one.
 * @param {Loaded} file @param {any} loader Under the pointer; null where there is none. @returns {Promise<any>}
 */
export async function completedBy(file, loader) {
  if (!file.half) return null;
  for (const node of loader ? [loader] : [...app.canvas.graph.nodes].reverse()) {
    if (!LOADERS.includes(node.comfyClass) || widgetOf(node, "other_file")?.value !== NONE) continue;
    const held = await partOf(String(widgetOf(node, "file").value ?? ""));
    if (held !== null && isPair(held, file)) return node;
  }
  return null;
}

/** Which part of an adapter a loader's file is; null where the server does not say. @param {string} name */
async function partOf(name) {
  try {
    return /** @type {Part} */ (await ask(`/adapter?name=${encodeURIComponent(name)}`));
  } catch (error) {
    console.info("KronA: the file of a loader could not be looked at.", error);
    return null;
  }
}

/** Let a loader hold a second file. @param {any} node @param {Loaded} file */
export function chooseOther(node, file) {
  setValue(node, "other_file", file.name);
}

/** Let a loader hold a file, and its second one where it has one: none stays from before. @param {any} node @param {Loaded} file */
export function chooseBoth(node, file) {
  setValue(node, "file", file.name);
  if (LOADERS.includes(node.comfyClass)) setValue(node, "other_file", file.other ?? NONE);
}
