// @ts-check
/**
 * Which layer a tensor of an adapter belongs to, and which part of it it is: `krona_ops/formats/parts.py` for the
 * browser.
 */
import { BY_PART, DEEPEST, NO_METHODS, NO_PARTS, QUANTISED, READ, SPECIAL, STARTS } from "./strangers.mjs";

const LORA = [
  [".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"],
  [".lora_B.weight", ".lora_A.weight"],
  [".lora_B", ".lora_A"],
  [".lora.up.weight", ".lora.down.weight"],
  ["_lora.up.weight", "_lora.down.weight"],
  [".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"],
  [".lora_layer.up.weight", ".lora_layer.down.weight"],
];
const LOKR = ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"];
const LOHA = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"];
const PLAIN = ["diff", "diff_b", "w_norm", "b_norm", "set_weight"];
const OTHERS = [
  "cdka_a",
  "cdka_b",
  ...PLAIN,
  "alpha",
  "dora_scale",
  "magnitude",
  "scalar",
  "row_offset",
  "reshape_weight",
];
const MAGNITUDES = ["lora_magnitude_vector", "lora_magnitude_vector.weight"];

/** The end of a tensor's name, the longest first, and what that part is called here. @type {[string, string][]} */
const ENDS = /** @type {[string, string][]} */ ([
  ...[...LOKR, ...LOHA, ...OTHERS].map((part) => [`.${part}`, part]),
  ...LORA.flatMap((spellings) => spellings.map((end, number) => [end, ["lora_up", "lora_down", "lora_mid"][number]])),
  ...MAGNITUDES.map((end) => [`.${end}`, "magnitude"]),
  [".lora_B.bias", "lora_bias"],
  [".lora_embedding_A", "lora_embedding_a"],
  [".lora_embedding_B", "lora_embedding_b"],
]).sort(([a], [b]) => b.length - a.length);

/**
 * PEFT puts the name of an adapter between these two, "default" or what the user called it.
 * @type {[string, string, string][]}
 */
const NAMED = [
  ...[...LOKR, ...LOHA].map((part) => /** @type {[string, string, string]} */ ([part, "", part])),
  ["lora_up", "weight", "lora_up"],
  ["lora_down", "weight", "lora_down"],
  ["lora_mid", "weight", "lora_mid"],
  ["lora_B", "weight", "lora_up"],
  ["lora_A", "weight", "lora_down"],
  ["lora_B", "bias", "lora_bias"],
  ["lora_magnitude_vector", "", "magnitude"],
  ["lora_magnitude_vector", "weight", "magnitude"],
];
const NO_ADAPTER = /scale|quant|absmax|zero_?point|bias$/;
/** Of the processors of XLabs and USO. */
const OF_FLUX = /^(?<layer>.*\.(?:qkv|proj)_lora[12])\.(?<part>up|down)\.weight$/;
const MODIFIERS = new Set(["alpha", "dora_scale", "magnitude", "scalar", "row_offset", "reshape_weight"]);

/** What parallel branches attend to, as `krona_ops/names/branches.py` has it. */
export const MODES = ["reference", "first", "views", "row", "row+col"];
const BRANCH = /^(?<site>.+)\.krona_(?<mode>[a-z+]+)\.(?<part>to_[qkv]|to_out(?:\.bias)?|gate)$/;

/**
 * Where in a parallel branch a layer belongs; null for a layer of none.
 * @param {string} name @returns {{site: string, mode: string, part: string} | null}
 */
export function branchPlace(name) {
  const { site = "", mode = "", part = "" } = BRANCH.exec(name)?.groups ?? {};
  return MODES.includes(mode) ? { site, mode, part } : null;
}

/**
 * @param {string} key
 * @returns {{layer: string, part: string} | null} Null where no method that is known here writes such a name.
 */
export function split(key) {
  for (const [end, part] of ENDS) {
    if (key.length > end.length && key.endsWith(end)) return { layer: key.slice(0, -end.length), part };
  }
  if (branchPlace(key)?.part === "gate") return { layer: key, part: "diff" };
  const flux = OF_FLUX.exec(key)?.groups;
  if (flux) return { layer: flux.layer, part: `lora_${flux.part}` };
  const words = key.split(".");
  for (const [before, behind, part] of NAMED) {
    const rest = behind ? 3 : 2;
    if (words.length <= rest || words[words.length - rest] !== before || (behind && words[words.length - 1] !== behind))
      continue;
    const layer = words.slice(0, -rest).join(".");
    if (layer && !NO_ADAPTER.test(words[words.length - rest + 1])) return { layer, part };
  }
  return null;
}

/**
 * @typedef {Map<string, Map<string, number[]>>} Layers Layer, then part, then shape.
 * @param {Map<string, number[]>} shapes
 * @returns {{layers: Layers, strangers: string[]}} `strangers`: names that belong to no known method.
 */
export function group(shapes) {
  /** @type {Layers} */
  const layers = new Map();
  const strangers = [];
  const isControl = isControlLora([...shapes.keys()]);
  for (const [key, shape] of shapes) {
    const place =
      split(key) ?? (isControl && key.endsWith("_norm.scale") ? { layer: key.slice(0, -6), part: "set_weight" } : null);
    if (!place) {
      strangers.push(key);
      continue;
    }
    const parts = layers.get(place.layer) ?? new Map();
    layers.set(place.layer, parts.set(place.part, shape));
  }
  return { layers, strangers };
}

/** Black Forest Labs' control LoRAs of Flux hold the weights of norms as they are. @param {string[]} keys */
function isControlLora(keys) {
  return (
    keys.some((key) => key.endsWith("img_in.lora_A.weight")) && keys.some((key) => key.endsWith(".key_norm.scale"))
  );
}

/** Whether a layer has more than what says something about an update. @param {Iterable<string>} parts */
export function isUpdate(parts) {
  return [...parts].some((part) => !MODIFIERS.has(part));
}

/** The kinds of update among parts: `lokr`, `hada`, `lora`, `cdka`, `diff`. @param {Iterable<string>} parts */
export function methodsOf(parts) {
  const methods = new Set();
  for (const part of parts) {
    const start = part.split("_")[0];
    if (["lokr", "hada", "lora", "cdka"].includes(start)) methods.add(start);
    else if (PLAIN.includes(part)) methods.add("diff");
  }
  return methods;
}

/**
 * The method of an adapter that cannot be read, by a tensor's name and shape, as `krona_ops/formats/strangers.py` tells
 * it; null for what belongs to no method.
 * @param {string} key @param {number[]} [shape]
 */
export function unreadableMethod(key, shape = []) {
  if (QUANTISED.test(key)) return null;
  const words = key.split(".");
  for (let n = words.length - 1; n >= Math.max(0, words.length - DEEPEST + 1); n--) {
    const method = methodOfPart(words[n], words.slice(n + 1), shape);
    if (method !== null) return NO_METHODS.includes(method) ? null : method;
  }
  if (key.startsWith("lllite_")) return "ControlNet-LLLite";
  return ["up", "down"].includes(words[words.length - 1]) ? "a control LoRA of Stability AI" : null;
}

/** @param {string} part @param {string[]} rest The words behind it. @param {number[]} shape @returns {string | null} */
function methodOfPart(part, rest, shape) {
  if (Object.hasOwn(SPECIAL, part)) return SPECIAL[part];
  if (part === "oft_blocks") return shape.length === 4 ? "BOFT" : "OFT";
  if (Object.hasOwn(BY_PART, part) && (BY_PART[part] !== "GLoRA" || rest.join(".") === "weight")) return BY_PART[part];
  const method = STARTS.find(([start]) => part.startsWith(start))?.[1];
  if (method === undefined || (method === "LoRA" && NO_PARTS.some((start) => part.startsWith(start)))) return null;
  return READ.includes(method) ? `${method} with "${part}"` : method;
}
