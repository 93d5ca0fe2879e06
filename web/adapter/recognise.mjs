// @ts-check
/** What a safetensors file is, told from its header as `krona_ops/formats` tells it. */
import { publishedBranches } from "./branches.mjs";
import { areNormValues, countNormValues, halfOf, normLayers } from "./pair.mjs";
import { branchPlace, group, isUpdate, methodsOf, MODES, unreadableMethod } from "./parts.mjs";

/** @typedef {import("./safetensors.mjs").Header} Header */
/** @typedef {import("./parts.mjs").Layers} Layers */

/**
 * @typedef {object} Recognised
 * @property {"adapter" | "unsupported" | "checkpoint" | "state" | "other"} kind `unsupported`: an adapter of a method
 *   that the pack cannot read; `checkpoint`: a model or a part of one; `state`: what a training of ours keeps for
 *   itself.
 * @property {string} format The name that `krona_ops.formats` has for it; empty where it is no adapter.
 * @property {string} method For a person: `LoKr`, `LoRA`, ...
 * @property {number} layers
 * @property {{a: number[], b: number[], layers: number}[]} factors The pairs that occur, the most frequent first.
 * @property {string} title
 * @property {string} base What the file itself says.
 * @property {string} trigger
 * @property {boolean} hasWorkflow
 * @property {boolean} hasTextEncoder Whether it adapts a text encoder.
 * @property {{mode: string, places: number}[]} branches Parallel branches, and in how many places each stands.
 * @property {import("./pair.mjs").Half} half Which of the two files of a ResAdapter it is; empty for everything else.
 * @property {number} levels Of the UNet that such a file is for.
 */

/** The format of files of MV-Adapter and I2V-Adapter. */
export const PUBLISHED = "attention branch";
/** The format of values of norms. */
const VALUES = "norm values";
const NAMES = new Map(
  Object.entries({
    lokr: "LoKr",
    peft: "LoKr",
    "sd-scripts KronA": "LoKr",
    diffusekrona: "DiffuseKronA",
    cdka: "CDKA",
    loha: "LoHa",
    lora: "LoRA",
    diff: "diff",
    [PUBLISHED]: "MV-Adapter or I2V-Adapter",
    [VALUES]: "norm value",
  }),
);
const PEFT_PREFIX = "base_model.model.";
const RELEASED = /^(?<layer>.+?)(?<end>_lora|\.lora_linear_layer|\.lora_layer)\.(?<part>down|up)\.weight$/;
const ATTENTION = /attn\d*\.processor\.(?<role>to_(?:q|k|v|out))$/;
const TEXT = /\.(?:self_attn\.(?<role>(?:q|k|v|out)_proj)|mlp\.fc\d)$/;
const OF_TEXT_ENCODER = [
  /^(?:base_model\.model\.|model\.|lycoris_+)*(?:lora_)?(?:prior_)?(?:te\d?|text_encoders?(?:_?\d)?)[._]/i,
  /(?:^|[._])text_model[._](?:encoder|embeddings)[._]/i,
];
const OF_MODEL =
  /^(?:(?:model\.)?control_model|model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders)\./;
const WEIGHTS_OF_A_MODEL = 8;
const KRONA_KIND = /^krona\.(?:train-state|packed|cache)/;

/** @param {Header} header @returns {Recognised} */
export function recognise(header) {
  const { layers, strangers } = group(header.shapes);
  const format = formatOf(header, layers);
  const facts = {
    kind: kindOf(header, layers, strangers, format),
    format,
    method: NAMES.get(format) ?? "",
    layers: 0,
    factors: /** @type {Recognised["factors"]} */ ([]),
    title: header.metadata.get("modelspec.title") || header.metadata.get("ss_output_name") || "",
    base: header.metadata.get("ss_base_model_version") || header.metadata.get("modelspec.architecture") || "",
    trigger: (header.metadata.get("modelspec.trigger_phrase") ?? "").trim(),
    hasWorkflow: isWorkflow(header.metadata.get("workflow")),
    hasTextEncoder: false,
    branches: /** @type {Recognised["branches"]} */ ([]),
    half: /** @type {Recognised["half"]} */ (""),
    levels: 0,
  };
  if (facts.kind === "unsupported")
    facts.method = strangers.map((key) => unreadableMethod(key, header.shapes.get(key))).find(Boolean) ?? "";
  if (facts.kind !== "adapter") return { ...facts, format: "" };
  if (format === PUBLISHED) return published(header, facts);
  if (format === VALUES)
    return { ...facts, layers: countNormValues(header.shapes), ...halfOf(normLayers(header.shapes), format) };
  facts.layers = count(layers);
  facts.factors = common(
    [...layers].map(([layer, parts]) => factorsOf(parts, format === "diffusekrona" && released(layer) !== null)),
  );
  facts.hasTextEncoder = [...layers.keys()].some((layer) => OF_TEXT_ENCODER.some((pattern) => pattern.test(layer)));
  facts.branches = branchesOf([...layers.keys()].map(branchPlace));
  return { ...facts, ...halfOf(layers.keys(), format) };
}

/**
 * A file whose tensors are whole projections of branches, with nothing else in it that is read.
 * @param {Header} header @param {Recognised} facts @returns {Recognised}
 */
function published(header, facts) {
  const { layers, places } = publishedBranches(header.shapes.keys());
  const names = new Set(places.map(({ mode }) => (mode === "first" ? "I2V-Adapter" : "MV-Adapter")));
  const method = [...names].join(", ") || facts.method;
  return { ...facts, method, layers, branches: branchesOf(places) };
}

/** @param {({mode: string, site: string} | null)[]} parts */
function branchesOf(parts) {
  const places = new Set(parts.map((place) => place && `${place.mode} ${place.site}`));
  const counts = MODES.map((mode) => ({
    mode,
    places: [...places].filter((place) => place?.startsWith(`${mode} `)).length,
  }));
  return counts.filter((one) => one.places > 0);
}

/**
 * @param {Header} header @param {Layers} layers @param {string[]} strangers @param {string} format
 * @returns {Recognised["kind"]}
 */
function kindOf(header, layers, strangers, format) {
  if (KRONA_KIND.test(header.metadata.get("krona.kind") ?? "")) return "state";
  if (format === PUBLISHED) return "adapter"; // whole matrices, as a model's are
  const weights = strangers.filter(
    (key) =>
      key.endsWith(".weight") &&
      (header.shapes.get(key)?.length ?? 0) > 1 &&
      unreadableMethod(key) === null &&
      !key.includes(".modules_to_save."),
  );
  // A model may have a parameter called alpha or diff, an adapter a few weights of its base model.
  const updates = [...layers.values()].filter((parts) => isUpdate(parts.keys())).length;
  const isModel =
    weights.length > updates && (weights.length >= WEIGHTS_OF_A_MODEL || weights.some((key) => OF_MODEL.test(key)));
  if (isModel) return "checkpoint";
  if (format) return "adapter"; // the server says what it leaves out
  return strangers.some((key) => unreadableMethod(key) !== null) ? "unsupported" : "other";
}

/**
 * The one format of `krona_ops.formats.FORMATS` that sniffs true; empty where none does.
 * @param {Header} header
 * @param {Layers} layers
 */
function formatOf(header, layers) {
  const methods = methodsOf([...layers.values()].flatMap((parts) => [...parts.keys()]));
  if (methods.has("lora") && isDiffuseKrona(header)) return "diffusekrona";
  if (methods.has("lokr")) {
    if (isPeft(header, layers)) return "peft";
    const isNamed = /networks\.(krona|cdka)$/.test(header.metadata.get("ss_network_module") ?? "");
    return isNamed && hasAlpha(header) ? "sd-scripts KronA" : "lokr";
  }
  if (methods.has("cdka")) return "cdka";
  if (methods.has("hada")) return "loha";
  if (methods.has("lora")) return "lora";
  if (methods.has("diff")) return "diff";
  if (publishedBranches(header.shapes.keys()).any) return PUBLISHED;
  return areNormValues(header.shapes) ? VALUES : "";
}

/** @param {Header} header */
function hasAlpha(header) {
  return [...header.shapes.keys()].some((key) => key.endsWith(".alpha"));
}

/**
 * PEFT saves LoKr without alpha, and its own prefix before every name.
 * @param {Header} header
 * @param {Layers} layers
 */
function isPeft(header, layers) {
  const names = [...layers]
    .filter(([, parts]) => [...parts.keys()].some((part) => part.startsWith("lokr")))
    .map(([name]) => name);
  if (names.some((name) => header.shapes.has(`${name}.alpha`))) return false;
  const kind = peftKind(header.metadata.get("adapter_config"));
  return kind ? kind === "LOKR" : names.every((name) => name.startsWith(PEFT_PREFIX));
}

/** The kind that PEFT's settings name, where they make sense. @param {string | undefined} text */
function peftKind(text) {
  const config = parsed(text);
  const kind = String(config?.peft_type ?? "")
    .split(".")
    .pop()
    ?.toUpperCase();
  const numbers = [config?.r, config?.[kind === "LORA" ? "lora_alpha" : "alpha"]];
  return numbers.every((number) => Number.isFinite(parseFloat(number))) ? kind : null;
}

/**
 * What follows a layer's name in the files of the code released with DiffuseKronA, and which of its settings the layer
 * has; null where they hold no such layer.
 * @param {string} layer @returns {[string, string] | null}
 */
function released(layer) {
  const attention = ATTENTION.exec(layer)?.groups;
  if (attention) return ["_lora", attention.role];
  if (layer.startsWith("text_encoder")) {
    const text = TEXT.exec(layer);
    return text && [".lora_linear_layer", `text ${text.groups?.role ?? ""}`];
  }
  return layer.startsWith("unet.") && !layer.includes("attn") ? [".lora_layer", ""] : null;
}

/**
 * Files of the code released with DiffuseKronA have an old LoRA's names. A LoRA's `down` and `up` share the rank in
 * every layer, Kronecker factors only by chance; and `down`, which is `Aᵀ`, is the same in all layers of a projection.
 * @param {Header} header
 */
function isDiffuseKrona(header) {
  /** @type {Map<string, Map<string, number[]>>} */
  const pairs = new Map();
  /** @type {Map<string, string[]>} */
  const downs = new Map();
  for (const [key, shape] of header.shapes) {
    const match = RELEASED.exec(key)?.groups;
    const [end, role] = (match && released(match.layer)) ?? ["", ""];
    if (!match || match.end !== end || shape.length !== 2) continue;
    pairs.set(match.layer, (pairs.get(match.layer) ?? new Map()).set(match.part, shape));
    if (match.part === "down") downs.set(role, [...(downs.get(role) ?? []), String(shape)]);
  }
  const whole = [...pairs.values()].filter((pair) => pair.size === 2);
  const others = whole.filter((pair) => pair.get("down")?.[0] !== pair.get("up")?.[1]).length;
  return (
    whole.length > 0 &&
    others > 0.1 * whole.length &&
    [...downs.values()].every((shapes) => commonest(shapes) >= 0.9 * shapes.length)
  );
}

/** How often the most frequent one occurs. @param {string[]} values */
function commonest(values) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return Math.max(...counts.values());
}

/** How many layers are updated; a bias is one of its own. @param {Layers} layers */
function count(layers) {
  let updates = 0;
  for (const parts of layers.values()) {
    const methods = methodsOf([...parts.keys()].filter((part) => !["lora_bias", "diff_b", "b_norm"].includes(part)));
    updates += Number(methods.size > 0) + Number(["lora_bias", "diff_b", "b_norm"].some((part) => parts.has(part)));
  }
  return updates;
}

/**
 * The shapes of `A` and `B` of a layer.
 * @param {Map<string, number[]>} parts
 * @param {boolean} isOfficial
 * @returns {[number[], number[]] | null}
 */
function factorsOf(parts, isOfficial) {
  if (isOfficial) {
    const [down, up] = [parts.get("lora_down"), parts.get("lora_up")];
    return down && up ? [[...down].reverse(), up] : null;
  }
  const terms = [parts.get("cdka_b"), parts.get("cdka_a")];
  if (terms[0] && terms[1]) return [terms[0].slice(1), terms[1].slice(1)];
  const a = whole(parts, "lokr_w1");
  const b = whole(parts, "lokr_w2");
  return a && b ? [a, b] : null;
}

/**
 * The shape of a factor that is stored whole, as a product of two, or with a core.
 * @param {Map<string, number[]>} parts
 * @param {string} name
 */
function whole(parts, name) {
  const [up, down] = [parts.get(`${name}_a`), parts.get(`${name}_b`)];
  if (!up || !down) return parts.get(name) ?? null;
  const core = name === "lokr_w2" ? parts.get("lokr_t2") : undefined;
  return core ? [up[1], down[1], ...core.slice(2)] : [up[0], ...down.slice(1)];
}

/** Pairs by how often they occur. @param {([number[], number[]] | null)[]} pairs */
function common(pairs) {
  /** @type {Map<string, {a: number[], b: number[], layers: number}>} */
  const counts = new Map();
  for (const pair of pairs) {
    if (!pair) continue;
    const key = JSON.stringify(pair);
    const entry = counts.get(key) ?? { a: pair[0], b: pair[1], layers: 0 };
    counts.set(key, { ...entry, layers: entry.layers + 1 });
  }
  return [...counts.values()].sort((one, other) => other.layers - one.layers);
}

/** Whether it is a graph that the editor opens. @param {string | undefined} text */
function isWorkflow(text) {
  return Array.isArray(parsed(text)?.nodes);
}

/** @param {string | undefined} text @returns {any} */
function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}
