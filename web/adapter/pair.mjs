// @ts-check
/**
 * The two files of a ResAdapter, which are one adapter: a LoRA of the convolutions between a UNet's levels, and values of
 * the norms of its residual blocks. `krona_ops/formats/pair.py` and `norm_values.py` for the browser.
 */

/** @typedef {"LoRA" | "norm values" | ""} Half */

const PREFIX = "(?:lora[._]unet[._]|lycoris[._]|unet[._])?";
const SAMPLER = new RegExp(`^${PREFIX}(?:down|up)_blocks[._]([0-9]{1,2})[._](?:down|up)samplers[._]0[._]conv$`);
const NORM = new RegExp(`^${PREFIX}(?:(?:down|up)_blocks[._]([0-9]{1,2})|mid_block)[._]resnets[._][0-9]{1,2}[._]norm[12]$`);
const END = /\.(?:weight|bias)$/;

/** The norm that a tensor is of; empty for one of another kind. @param {string} key */
function normOf(key) {
  const norm = END.test(key) ? key.replace(END, "") : "";
  return NORM.test(norm) ? norm : "";
}

/** Whether most of a file's tensors are such values. @param {Map<string, number[]>} shapes */
export function areNormValues(shapes) {
  const norms = [...shapes].filter(([key, shape]) => normOf(key) && shape.length === 1).length;
  return 2 * norms > shapes.size;
}

/** How many values there are that can be read. @param {Map<string, number[]>} shapes */
export function countNormValues(shapes) {
  const vectors = (/** @type {string} */ norm) =>
    [".weight", ".bias"].flatMap((end) => (shapes.has(norm + end) ? [shapes.get(norm + end)] : []));
  const norms = new Set([...shapes.keys()].map(normOf).filter(Boolean));
  const whole = [...norms].filter((norm) => {
    const lengths = vectors(norm).map((shape) => (shape?.length === 1 ? shape[0] : 0));
    return lengths.every((length) => length > 0 && length === lengths[0]);
  });
  return whole.reduce((sum, norm) => sum + vectors(norm).length, 0);
}

/**
 * Which of the two files one is, and for a UNet of how many levels.
 * @param {Iterable<string>} layers Names of what the file updates.
 * @param {string} format As `krona_ops.formats` calls it.
 * @returns {{half: Half, levels: number}}
 */
export function halfOf(layers, format) {
  const names = [...layers];
  const matches = names.map((name) => (format === "lora" ? SAMPLER : NORM).exec(name.replace(/\.bias$/, "")));
  const isHalf = ["lora", "norm values"].includes(format) && names.length > 0 && matches.every(Boolean);
  if (!isHalf) return { half: "", levels: 0 };
  const last = Math.max(...matches.map((match) => Number(match?.[1] ?? -1)));
  return format === "lora" ? { half: "LoRA", levels: last + 2 } : { half: "norm values", levels: last + 1 };
}

/** The norms in a file of such values, by name. @param {Map<string, number[]>} shapes */
export function normLayers(shapes) {
  return new Set([...shapes.keys()].map(normOf).filter(Boolean));
}

/**
 * Whether two files are one adapter.
 * @param {{half: Half, levels: number}} one
 * @param {{half: Half, levels: number}} other
 */
export function isPair(one, other) {
  return one.half !== "" && other.half !== "" && one.half !== other.half && one.levels === other.levels;
}
