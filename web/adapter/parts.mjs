// @ts-check
/** Which layer a tensor of an adapter belongs to, and which part of it it is: `krona_ops/formats/parts.py` for the browser. */

const LORA = [
  [".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"],
  [".lora_B.weight", ".lora_A.weight"],
  [".lora_B.default.weight", ".lora_A.default.weight"],
  [".lora_B", ".lora_A"],
  [".lora.up.weight", ".lora.down.weight"],
  ["_lora.up.weight", "_lora.down.weight"],
  [".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"],
];
const LOKR = ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"];
const LOHA = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"];
const PLAIN = ["diff", "diff_b", "w_norm", "b_norm"];
const OTHERS = ["cdka_a", "cdka_b", ...PLAIN, "alpha", "dora_scale", "scalar"];
const MAGNITUDES = ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"];

/** The end of a tensor's name, the longest first, and what that part is called here. @type {[string, string][]} */
const ENDS = /** @type {[string, string][]} */ ([
  ...[...LOKR, ...LOHA, ...OTHERS].map((part) => [`.${part}`, part]),
  ...[...LOKR, ...LOHA].map((part) => [`.${part}.default`, part]),
  ...LORA.flatMap((spellings) => spellings.map((end, number) => [end, ["lora_up", "lora_down", "lora_mid"][number]])),
  ...MAGNITUDES.map((end) => [`.${end}`, "magnitude"]),
  [".lora_B.bias", "lora_bias"],
]).sort(([a], [b]) => b.length - a.length);

/** Adapters that the pack cannot read, by the end of a tensor's name. */
const UNREADABLE = new Map([
  [".oft_blocks", "OFT"],
  [".oft_diag", "OFT"],
  [".a1.weight", "GLoRA"],
  [".on_input", "IA3"],
]);

/** Textual inversions that kohya's and OneTrainer's files carry along. */
const IGNORED = "bundle_emb.";

/**
 * @param {string} key
 * @returns {{layer: string, part: string} | null} Null where no method that is known here writes such a name.
 */
export function split(key) {
  for (const [end, part] of ENDS) {
    if (key.length > end.length && key.endsWith(end)) return { layer: key.slice(0, -end.length), part };
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
  for (const [key, shape] of shapes) {
    if (key.startsWith(IGNORED)) continue;
    const found = split(key);
    if (!found) {
      strangers.push(key);
      continue;
    }
    const parts = layers.get(found.layer) ?? new Map();
    layers.set(found.layer, parts.set(found.part, shape));
  }
  return { layers, strangers };
}

/** The kinds of update among parts: `lokr`, `hada`, `lora`, `cdka`, `diff`. @param {Iterable<string>} parts */
export function methodsOf(parts) {
  const found = new Set();
  for (const part of parts) {
    const start = part.split("_")[0];
    if (["lokr", "hada", "lora", "cdka"].includes(start)) found.add(start);
    else if (PLAIN.includes(part)) found.add("diff");
  }
  return found;
}

/** The method of an adapter that cannot be read, by a tensor's name. @param {string} key */
export function unreadableMethod(key) {
  for (const [end, method] of UNREADABLE) if (key.endsWith(end)) return method;
  return null;
}
