import assert from "node:assert/strict";
import test from "node:test";
import { MOST_BYTES, readHeader, SafetensorsError } from "../../../web/adapter/safetensors.mjs";
import { headerOf, safetensors, Watched } from "./files.mjs";

const GOOD = headerOf({ "a.lokr_w1": [3, 5], "a.lokr_w2": [7, 2] }, { "modelspec.title": "robot ⊗" });

/** @param {Uint8Array | Blob | Watched} file @param {string} reason */
async function refused(file, reason) {
  const readable = file instanceof Uint8Array ? new Blob([file]) : file;
  await assert.rejects(readHeader(readable), (error) => error instanceof SafetensorsError && error.reason === reason);
}

test("a header is read", async () => {
  const header = await readHeader(new Blob([safetensors(GOOD)]));
  assert.deepEqual([...header.shapes], [["a.lokr_w1", [3, 5]], ["a.lokr_w2", [7, 2]]]);
  assert.deepEqual([...header.dtypes.values()], ["F32", "F32"]);
  assert.equal(header.metadata.get("modelspec.title"), "robot ⊗");
});

test("nothing behind the header is read", async () => {
  const file = new Watched(safetensors(GOOD));
  await readHeader(file);
  assert.equal(file.furthest, 8 + JSON.stringify(GOOD).length + 2); // ⊗ has three bytes
});

test("a file without tensors is one", async () => {
  assert.equal((await readHeader(new Blob([safetensors({})]))).shapes.size, 0);
  assert.equal((await readHeader(new Blob([safetensors({ __metadata__: null })]))).metadata.size, 0);
});

test("a name like __proto__ changes nothing but the header", async () => {
  const entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
  const text = `{"__metadata__":{"__proto__":"x"},"__proto__":${entry},"constructor":${entry}}`;
  const header = await readHeader(new Blob([safetensors(text, { data: 1 })]));
  assert.deepEqual([...header.shapes.keys()], ["__proto__", "constructor"]);
  assert.equal(header.metadata.get("__proto__"), "x");
  assert.equal(/** @type {any} */ ({}).dtype, undefined);
});

test("of a name that is there twice the last counts, as on the server", async () => {
  const text = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}';
  assert.deepEqual((await readHeader(new Blob([safetensors(text, { data: 2 })]))).shapes.get("a"), [2]);
});

test("files that cannot be are refused", async () => {
  await refused(new Uint8Array(0), "short");
  await refused(new Uint8Array(7), "short");
  await refused(safetensors("{}", { length: 1n }), "short");
  await refused(safetensors("{}", { length: 3n }), "short");
  await refused(safetensors("{}", { length: 2n ** 64n - 1n }), "short");
  await refused(safetensors("[]"), "entry");
  await refused(safetensors("{]"), "json");
  await refused(safetensors("\ufeff{}"), "json");
  await refused(safetensors("[".repeat(200_000)), "json");
  await refused(safetensors('{"a":'.repeat(100_000) + "1" + "}".repeat(100_000)), "entry");
  await refused(Uint8Array.from([2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), "json"); // no UTF-8
  await refused(safetensors(GOOD).slice(0, -1), "size");
  await refused(safetensors(GOOD, { data: 500 }), "size");
});

test("entries that cannot be are refused", async () => {
  for (const entry of [
    null, 1, [], {}, { dtype: "F32", shape: [1] }, { dtype: "F32", shape: [2], data_offsets: [0, 4] }, { dtype: "F32", shape: [-1], data_offsets: [0, 4] },
    { dtype: "F32", shape: [1], data_offsets: [4, 0] }, { dtype: "F32", shape: [1.5], data_offsets: [0, 6] }, { dtype: 4, shape: [1], data_offsets: [0, 4] },
    { dtype: "F32", shape: "1", data_offsets: [0, 4] }, { dtype: "F32", shape: [1], data_offsets: [0, 4, 8] }, { dtype: "F32", shape: [1e300], data_offsets: [0, 4] },
    { dtype: "F32", shape: [2 ** 40, 2 ** 40, 0.25], data_offsets: [0, 4] }, { dtype: "F32", shape: Array(65).fill(1), data_offsets: [0, 4] },
  ]) {
    await refused(safetensors(JSON.stringify({ a: entry }), { data: 4 }), "entry");
  }
  for (const metadata of [1, [], { a: 1 }, { a: null }]) await refused(safetensors({ __metadata__: metadata }, { data: 0 }), "entry");
});

test("a header beyond the limit is not even read", async () => {
  const start = new Uint8Array(16);
  new DataView(start.buffer).setBigUint64(0, BigInt(MOST_BYTES + 1), true);
  const file = new Watched(start, 10_000_000_000);
  await refused(file, "large");
  assert.equal(file.allocated, 8);
});

test("a file that cannot be read any more is refused", async () => {
  const gone = { size: 100, slice: () => ({ arrayBuffer: async () => { throw new DOMException("gone", "NotReadableError"); } }) };
  await refused(/** @type {any} */ (gone), "unreadable");
  await refused(new Watched(safetensors(GOOD).slice(0, 20), 1000), "unreadable"); // it has shrunk meanwhile
});

test("10,000 damaged headers are read or refused, and never more than the header is taken", async () => {
  const random = generator(20260730);
  const whole = safetensors(GOOD);
  let read = 0;
  for (let round = 0; round < 10_000; round++) {
    const file = new Watched(damaged(whole, random), random() < 0.1 ? Math.floor(random() * 2 ** 40) : undefined);
    const announced = file.bytes.length >= 8 ? new DataView(file.bytes.buffer).getBigUint64(0, true) : 0n;
    try {
      await readHeader(file);
      read += 1;
    } catch (error) {
      assert.ok(error instanceof SafetensorsError, `round ${round}: ${error?.stack}`);
    }
    assert.ok(file.furthest <= 8 || BigInt(file.furthest) <= 8n + announced, `round ${round} read up to ${file.furthest}`);
    assert.ok(file.allocated <= 8 + MOST_BYTES, `round ${round} allocated ${file.allocated}`);
  }
  assert.ok(read > 100 && read < 9_000, `${read} were read`); // both happen
});

/** Numbers in [0, 1), the same ones every time (mulberry32). @param {number} seed */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A copy with bytes changed, taken out or put in, mostly in the header's text. @param {Uint8Array} whole @param {() => number} random */
function damaged(whole, random) {
  let bytes = [...whole];
  for (let change = 1 + Math.floor(random() * 4); change > 0; change--) {
    const at = Math.floor(random() ** 2 * bytes.length);
    const kind = random();
    if (kind < 0.5) bytes[at] = Math.floor(random() * 256);
    else if (kind < 0.7) bytes[at] = 48 + Math.floor(random() * 10); // another digit
    else if (kind < 0.8) bytes.splice(at, 1 + Math.floor(random() * 9));
    else if (kind < 0.9) bytes.splice(at, 0, ...Array.from({ length: 1 + Math.floor(random() * 9) }, () => Math.floor(random() * 256)));
    else bytes = bytes.slice(0, at);
  }
  return Uint8Array.from(bytes);
}
