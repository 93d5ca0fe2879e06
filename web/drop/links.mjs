// @ts-check
/** Which wire lies under the pointer, and putting a node in between. */

/** Pixels of the screen within which a wire counts as hit. */
const REACH = 12;

/**
 * The MODEL wires under a point; several where they share a stretch between two reroutes.
 * @param {any} canvas ComfyUI's.
 * @param {number[]} point Of the graph.
 * @returns {any[]}
 */
export function modelWiresAt(canvas, point) {
  const brush = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
  brush.lineWidth = (2 * REACH) / canvas.ds.scale;
  const isHit = (/** @type {any} */ stretch) => stretch.path && brush.isPointInStroke(stretch.path, point[0], point[1]);
  // What was drawn last, and only that, lies under the pointer.
  for (const stretch of canvas.renderedPaths) {
    if (!isHit(stretch)) continue;
    const wires = stretch.linkIds ? [...stretch.linkIds].map((id) => canvas.graph.getLink(id)) : [stretch];
    const models = wires.filter((wire) => wire && wire.type === "MODEL");
    if (models.length) return models;
  }
  return [];
}

/** @typedef {(node: any, input: string) => void} Connect */

/**
 * Where wires come from: a node's output, or an input of the subgraph that is open.
 * @param {any} graph @param {any} wire
 * @returns {{connect: Connect, sibling: (type: string) => {wires: any[], connect: Connect} | null}} `sibling`: the same
 *   node's output of a type.
 */
function source(graph, wire) {
  const node = graph.getNodeById(wire.origin_id);
  if (!node) {
    const slot = graph.inputNode?.slots[wire.origin_slot];
    return { connect: (to, input) => slot?.connect(to.inputs[to.findInputSlot(input)], to), sibling: () => null };
  }
  return {
    connect: (to, input) => node.connect(wire.origin_slot, to, input),
    sibling(type) {
      const slot = node.outputs.findIndex((/** @type {any} */ output) => output.type === type);
      if (slot < 0) return null;
      const wires = [...(node.outputs[slot].links ?? [])].map((id) => graph.getLink(id)).filter(Boolean);
      return { wires, connect: (to, input) => node.connect(slot, to, input) };
    },
  };
}

/**
 * Let a wire come from another output; its reroutes stay with it.
 * @param {any} graph
 * @param {any} wire
 * @param {any} node
 * @param {string} output
 */
function lead(graph, wire, node, output) {
  const slot = node.findOutputSlot(output);
  const target = graph.getNodeById(wire.target_id);
  if (target) node.connect(slot, target, wire.target_slot, wire.parentId);
  else graph.outputNode?.slots[wire.target_slot]?.connect(node.outputs[slot], node, wire.parentId);
}

/**
 * Put a node with `model` (and `clip`) inputs and outputs into wires; the text encoder goes through it too where
 * `withClip` says so and the wires come from a node that has one.
 * @param {any} graph @param {any[]} wires @param {any} node @param {boolean} withClip
 */
export function insert(graph, wires, node, withClip) {
  const [first] = wires;
  // Copies, as connecting an output's target takes the old wire away.
  const old = wires.map((wire) => ({ ...ends(wire) }));
  const from = source(graph, first);
  const clip = withClip ? from.sibling("CLIP") : null;
  const oldClip = clip?.wires.map(ends) ?? [];
  from.connect(node, "model");
  for (const wire of old) lead(graph, wire, node, "model");
  if (!clip) return;
  clip.connect(node, "clip");
  for (const wire of oldClip) lead(graph, wire, node, "clip");
}

/** @param {any} wire */
function ends(wire) {
  const { target_id, target_slot, parentId } = wire;
  return { target_id, target_slot, parentId };
}
