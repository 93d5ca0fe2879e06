// @ts-check
/**
 * Files of MV-Adapter and I2V-Adapter, whose tensors are whole projections of a second attention beside each
 * self-attention: `krona_ops/formats/attention_branch.py` for the browser.
 */

const KEY =
  /^(?<site>.+\.attn1)(?:\.processor)?\.(?:(?<input>to_[qkv])_(?<of>mv|ref|ff)\.weight|to_out_(?<ofOut>mv|ref|ff)(?:\.0)?\.(?<what>weight|bias))$/;
const KINDS = /** @type {Record<string, {mode: string, parts: string[]}>} */ ({
  mv: { mode: "row", parts: ["to_q", "to_k", "to_v", "to_out", "bias"] },
  ref: { mode: "reference", parts: ["to_q", "to_k", "to_v", "to_out", "bias"] },
  ff: { mode: "first", parts: ["to_q", "to_out", "bias"] },
});

/** Where in such a branch a tensor belongs. @param {string} key */
function place(key) {
  const { site, input, of, ofOut, what } = KEY.exec(key)?.groups ?? {};
  const kind = of ?? ofOut ?? "";
  const part = input ?? (what === "bias" ? "bias" : "to_out");
  return KINDS[kind]?.parts.includes(part) ? { site, kind, part } : null;
}

/**
 * The branches of other authors in a file: whether there are any, how many layers of them are whole, and where each
 * whole one stands, by what it attends to.
 * @param {Iterable<string>} keys
 */
export function publishedBranches(keys) {
  const found = [...keys].map(place).filter((one) => one !== null);
  /** @type {Map<string, {kind: string, site: string, parts: string[]}>} */
  const sites = new Map();
  for (const { site, kind, part } of found) {
    const at = sites.get(`${kind} ${site}`) ?? { kind, site, parts: [] };
    at.parts.push(part);
    sites.set(`${kind} ${site}`, at);
  }
  const whole = [...sites.values()].filter(
    ({ kind, parts }) => parts.length === KINDS[kind].parts.length && new Set(parts).size === parts.length,
  );
  return {
    any: found.length > 0,
    layers: whole.reduce((sum, { parts }) => sum + parts.length, 0),
    places: whole.map(({ kind, site }) => ({ site, mode: KINDS[kind].mode })),
  };
}
