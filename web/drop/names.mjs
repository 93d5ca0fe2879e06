// @ts-check
/**
 * Which dropped files are ours to look at, told by their names: that has to be known before anything of them can be
 * read.
 */

const SAFETENSORS = [".safetensors", ".sft"];
const PICKLES = [".pt", ".pth", ".ckpt", ".bin", ".pkl"];

/** @typedef {"safetensors" | "pickle" | "other"} Kind */

/** @param {string} name @returns {Kind} */
export function kindOf(name) {
  const suffix = suffixOf(name);
  if (SAFETENSORS.includes(suffix)) return "safetensors";
  return PICKLES.includes(suffix) ? "pickle" : "other";
}

/** With its dot, in lower case; empty where there is none. @param {string} name */
export function suffixOf(name) {
  return /\.[^.]+$/.exec(name)?.[0].toLowerCase() ?? "";
}

/**
 * Whether a drop is looked at: it has a file that may be an adapter, or must not be opened.
 * @param {{name: string}[]} files
 */
export function isForUs(files) {
  return files.some((file) => kindOf(file.name) !== "other");
}
