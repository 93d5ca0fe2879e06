// @ts-check
/** What the server says about an adapter, in few words. */

/** @typedef {(key: string, values?: Record<string, string | number>) => string} Translate */

/**
 * @typedef {object} Facts The answer of `GET /krona/adapter` (docs/api.md).
 * @property {string} name
 * @property {string} title
 * @property {string} base
 * @property {string} method
 * @property {{mode: string, places: number}[]} branches Parallel branches in it.
 * @property {import("../adapter/pair.mjs").Half} half Which of the two files of a ResAdapter it is; empty for any other.
 * @property {number} levels Of the UNet that such a file is for.
 * @property {number} layers
 * @property {{a: number[], b: number[], layers: number}[]} factors
 * @property {number | null} rank
 * @property {number} bytes
 * @property {{method: string, reason: string, names: string[]}[]} left_out
 * @property {string[]} trigger
 * @property {string} description
 * @property {boolean} has_thumbnail
 * @property {number} modified
 */

/**
 * The commonest pair of factors, such as `64×4 ⊗ 20×320`; empty where there is none.
 * @param {Facts["factors"]} factors
 */
export function product(factors) {
  const [most] = factors;
  return most ? `${most.a.join("×")} ⊗ ${most.b.join("×")}` : "";
}

/** Each pair on a line, for a tooltip. @param {Facts["factors"]} factors @param {Translate} t */
export function products(factors, t) {
  return factors.map((pair) => `${product([pair])}: ${layers(pair.layers, t)}`).join("\n");
}

/** @param {number} count @param {Translate} t */
export function layers(count, t) {
  return count === 1 ? t("oneLayer") : t("layers", { count });
}

/** Which base, which parallel branches, which method. @param {Facts} facts @param {Translate} t */
export function kind(facts, t) {
  const modes = facts.branches.map(({ mode, places }) => t("branchOne", { mode, count: places }));
  return [facts.base, modes.length > 0 && t("branch", { modes: modes.join(", ") }), facts.method]
    .filter(Boolean)
    .join(" · ");
}

/** What it is and how large. @param {Facts} facts @param {Translate} t @returns {string[]} */
export function numbers(facts, t) {
  const count = facts.factors.length - 1;
  const others = count === 1 ? t("oneOther") : t("others", { count });
  return [
    product(facts.factors),
    count > 0 ? others : "",
    facts.rank ? t("rank", { rank: facts.rank }) : "",
    layers(facts.layers, t),
    t("size", { size: megabytes(facts.bytes) }),
  ].filter(Boolean);
}

/**
 * What of the file is not used, by method, and in full for a tooltip.
 * @param {Facts["left_out"]} leftOut
 * @param {Translate} t
 */
export function unread(leftOut, t) {
  const methods = leftOut.map((one) => t("leftOutOne", { method: one.method, count: one.names.length }));
  return {
    text: t("leftOut", { methods: methods.join(", ") }),
    details: leftOut.map((one) => `${one.method}: ${one.reason}\n${some(one.names)}`).join("\n\n"),
  };
}

/** @param {string[]} names */
function some(names) {
  return names.length > 12 ? `${names.slice(0, 12).join("\n")}\n…` : names.join("\n");
}

/** @param {number} bytes */
export function megabytes(bytes) {
  const size = bytes / 1e6;
  if (size >= 100) return size.toFixed(0);
  return size < 0.1 ? size.toFixed(3) : size.toFixed(1);
}
