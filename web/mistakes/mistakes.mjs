// @ts-check
/** The sentences in the server's answer to a graph that it refused. */

/**
 * The server's word for a sentence of ours; its own errors (a missing wire, a number out of range) the editor tells in
 * full.
 */
const OURS = "custom_validation_failed";

/**
 * What the server found wrong with a node's inputs, as "input: sentence".
 * @param {Record<string, any> | null | undefined} errors By node, as `/prompt` answers: inside subgraphs a node is
 *   called "outer:inner".
 * @param {number | string} id The node's number in its own graph.
 * @returns {string[]}
 */
export function mistakesOf(errors, id) {
  const sentences = new Set();
  for (const [node, refused] of Object.entries(errors ?? {})) {
    if (node.split(":").at(-1) !== String(id)) continue;
    for (const error of refused?.errors ?? []) {
      const input = String(error.extra_info?.input_name ?? "");
      const details = String(error.details ?? "");
      if (error.type === OURS && details.startsWith(`${input} - `))
        sentences.add(`${input}: ${details.slice(input.length + 3)}`);
    }
  }
  return [...sentences];
}
