// @ts-check
/**
 * The header of a safetensors file, read in the browser: checked as `krona_ops/formats/header.py` does it, and never a
 * byte more than the header.
 */

/** The server takes headers of up to 100 MB; a browser that reads a dropped file should not. */
export const MOST_BYTES = 8_000_000;

/** Bytes of an element, for the types that occur in adapters; a tensor of another type is not measured. */
const BYTES = new Map(
  // prettier-ignore
  Object.entries({
    F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1, F8_E4M3FNUZ: 1, F8_E5M2FNUZ: 1, F8_E8M0: 1,
    C64: 8, U64: 8, U32: 4, U16: 2, U8: 1, I64: 8, I32: 4, I16: 2, I8: 1, BOOL: 1,
  }),
);

/**
 * @typedef {"unreadable" | "short" | "large" | "json" | "entry" | "size"} Reason `unreadable`: the browser cannot read
 *   the file; `short`: no room for the header it announces; `large`: a header beyond `MOST_BYTES`; `json`, `entry`: the
 *   header makes no sense; `size`: the file is longer or shorter than the header says.
 *
 * @typedef {object} Header
 * @property {Map<string, number[]>} shapes
 * @property {Map<string, string>} dtypes By the header's own names: `F32`, `BF16`, ...
 * @property {Map<string, string>} metadata
 *
 * @typedef {Pick<Blob, "size" | "slice">} Readable
 */

/** This is no safetensors file that can be read. Nothing else is ever thrown here. */
export class SafetensorsError extends Error {
  /** @param {Reason} reason @param {string} message */
  constructor(reason, message) {
    super(message);
    this.name = "SafetensorsError";
    this.reason = reason;
  }
}

/**
 * @param {Readable} file
 * @returns {Promise<Header>}
 * @throws {SafetensorsError}
 */
export async function readHeader(file) {
  const start = await bytes(file, 0, 8);
  if (start.byteLength < 8)
    throw new SafetensorsError("short", `The file has ${file.size} bytes; a header alone is longer.`);
  const announced = new DataView(start).getBigUint64(0, true);
  if (announced < 2n || announced > BigInt(file.size) - 8n) {
    throw new SafetensorsError(
      "short",
      `A header of ${announced} bytes is not possible in a file of ${file.size} bytes.`,
    );
  }
  if (announced > BigInt(MOST_BYTES)) throw new SafetensorsError("large", `The header has ${announced} bytes.`);
  const length = Number(announced);
  const text = await bytes(file, 8, 8 + length);
  if (text.byteLength !== length)
    throw new SafetensorsError("unreadable", "The file has become shorter while it was read.");
  return parse(text, file.size);
}

/**
 * @param {Readable} file @param {number} from @param {number} to
 * @returns {Promise<ArrayBuffer>}
 */
async function bytes(file, from, to) {
  try {
    return await file.slice(from, to).arrayBuffer();
  } catch (error) {
    throw new SafetensorsError(
      "unreadable",
      `The file cannot be read: ${error instanceof Error ? error.message : error}`,
    );
  }
}

/**
 * @param {ArrayBuffer} buffer The header's JSON.
 * @param {number} size Of the whole file.
 * @returns {Header}
 */
function parse(buffer, size) {
  const header = { shapes: new Map(), dtypes: new Map(), metadata: new Map() };
  let end = 0;
  // Maps, because a tensor may be called __proto__ or constructor.
  for (const [name, entry] of Object.entries(json(buffer))) {
    if (name === "__metadata__") {
      header.metadata = metadataOf(entry);
      continue;
    }
    const tensor = tensorOf(name, entry);
    header.shapes.set(name, tensor.shape);
    header.dtypes.set(name, tensor.dtype);
    end = Math.max(end, tensor.end);
  }
  const expected = 8 + buffer.byteLength + end;
  if (expected !== size)
    throw new SafetensorsError("size", `The header speaks of ${expected} bytes, the file has ${size}.`);
  return header;
}

/** @param {ArrayBuffer} buffer @returns {Record<string, unknown>} */
function json(buffer) {
  let value;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(buffer));
  } catch (error) {
    // A RangeError where it is nested too deeply, a TypeError where it is no UTF-8.
    throw new SafetensorsError("json", `The header is no JSON: ${error instanceof Error ? error.message : error}`);
  }
  return object(value, "The header");
}

/** @param {unknown} value @param {string} what @returns {Record<string, any>} */
function object(value, what) {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new SafetensorsError("entry", `${what} is no object.`);
  return value;
}

/** @param {unknown} entry @returns {Map<string, string>} */
function metadataOf(entry) {
  if (entry === null) return new Map();
  const pairs = Object.entries(object(entry, "__metadata__"));
  if (!pairs.every(([, value]) => typeof value === "string"))
    throw new SafetensorsError("entry", "__metadata__ holds something else than text.");
  return new Map(pairs);
}

/** @param {string} name @param {unknown} entry */
function tensorOf(name, entry) {
  const fields = object(entry, name);
  const offsets = numbers(fields.data_offsets, name);
  const shape = numbers(fields.shape, name);
  const [start, end] = offsets;
  if (offsets.length !== 2 || end < start) throw new SafetensorsError("entry", `${name} has no sensible data_offsets.`);
  if (typeof fields.dtype !== "string") throw new SafetensorsError("entry", `${name} has no dtype.`);
  const width = BYTES.get(fields.dtype);
  if (width !== undefined && count(shape) * BigInt(width) !== BigInt(end - start)) {
    throw new SafetensorsError("entry", `${name} has a shape that does not fill its bytes.`);
  }
  return { shape, dtype: fields.dtype, end };
}

/** @param {unknown} value @param {string} name @returns {number[]} */
function numbers(value, name) {
  if (!Array.isArray(value) || value.length > 64 || !value.every((n) => Number.isSafeInteger(n) && n >= 0)) {
    throw new SafetensorsError("entry", `${name} has sizes that are none.`);
  }
  return value;
}

/** How many elements; a BigInt, as a header may claim more than a number can hold. @param {number[]} shape */
function count(shape) {
  return shape.reduce((product, n) => product * BigInt(n), 1n);
}
