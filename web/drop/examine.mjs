// @ts-check
/** What to do with a file, once its header has been read in the browser. */
import { recognise } from "../adapter/recognise.mjs";
import { readHeader, SafetensorsError } from "../adapter/safetensors.mjs";
import { kindOf, suffixOf } from "./names.mjs";

/**
 * @typedef {import("../adapter/recognise.mjs").Recognised} Recognised
 * @typedef {{act: "load", file: File, facts: Recognised}
 *   | {act: "refuse", file: File, text: string, values: Record<string, string>}
 *   | {act: "leave", file: File}} Verdict
 * `refuse`: `text` is a key of `texts.mjs`; `leave`: ComfyUI does with it what it does without us.
 */

/** @param {File} file @returns {Promise<Verdict>} */
export async function examine(file) {
  const kind = kindOf(file.name);
  if (kind === "pickle") return refused(file, "pickle", { suffix: suffixOf(file.name) });
  if (kind === "other") return { act: "leave", file };
  let facts;
  try {
    facts = recognise(await readHeader(file));
  } catch (error) {
    if (error instanceof SafetensorsError) return refused(file, error.reason);
    throw error;
  }
  if (facts.kind === "adapter") return { act: "load", file, facts };
  // ComfyUI opens the workflow in a model's metadata, and says of anything else that it found none.
  if (facts.kind === "other" || facts.hasWorkflow) return { act: "leave", file };
  return refused(file, facts.kind, { method: facts.method });
}

/** @param {File} file @param {string} text @param {Record<string, string>} [values] @returns {Verdict} */
function refused(file, text, values = {}) {
  return { act: "refuse", file, text, values: { file: file.name, ...values } };
}
