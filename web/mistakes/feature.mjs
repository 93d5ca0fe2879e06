// @ts-check
/**
 * What is wrong with an input stands on the page in words. The editor says that "a node rejected one or more input
 * values" and keeps the sentence behind two clicks; the sentence names the input, what was found, and what helps.
 */
import { app, toast } from "../host.mjs";
import { mistakesOf } from "./mistakes.mjs";

/** What the browser registers for this feature. */
export const mistakes = {
  name: "KronA.Mistakes",
  /** @param {any} node */
  nodeCreated(node) {
    if (String(node.comfyClass).startsWith("Krona")) watch(node);
  },
};

/**
 * Tell of a node's mistakes when the editor marks it: a mark is the only sign that it gives.
 * @param {any} node
 */
function watch(node) {
  let marked = Boolean(node.has_errors);
  Object.defineProperty(node, "has_errors", {
    configurable: true,
    enumerable: true,
    get: () => marked,
    set(value) {
      if (value && !marked) tell(node);
      marked = Boolean(value);
    },
  });
}

/** @param {any} node */
function tell(node) {
  for (const text of mistakesOf(app.extensionManager?.lastNodeErrors, node.id))
    toast("error", `${node.title}, ${text}`);
}
