/** Safetensors files for tests, as text and as blobs that count what is read of them. */

/** @param {Record<string, any> | string} header JSON, or its text. @param {{data?: number, length?: bigint}} [options] */
export function safetensors(header, { data, length } = {}) {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const end = data ?? Math.max(0, ...Object.entries(typeof header === "string" ? {} : header).map(([name, e]) => (name === "__metadata__" ? 0 : e.data_offsets[1])));
  const file = new Uint8Array(8 + text.length + end);
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  file.set(text, 8);
  return file;
}

/** Tensors of float32 by name and shape, one behind the other. @param {Record<string, number[]>} shapes @param {Record<string, string>} [metadata] */
export function headerOf(shapes, metadata) {
  let offset = 0;
  const header = metadata ? { __metadata__: metadata } : {};
  for (const [name, shape] of Object.entries(shapes)) {
    const bytes = 4 * shape.reduce((product, n) => product * n, 1);
    header[name] = { dtype: "F32", shape, data_offsets: [offset, (offset += bytes)] };
  }
  return header;
}

/** What a Blob is to `readHeader`, with a record of what was asked of it. */
export class Watched {
  /** @param {Uint8Array} bytes @param {number} [size] */
  constructor(bytes, size = bytes.length) {
    Object.assign(this, { bytes, size, furthest: 0, allocated: 0 });
  }

  slice(from, to) {
    return {
      arrayBuffer: async () => {
        this.furthest = Math.max(this.furthest, to);
        this.allocated += Math.max(0, Math.min(to, this.size) - from);
        return this.bytes.slice(from, to).buffer;
      },
    };
  }
}
