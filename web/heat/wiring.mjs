// @ts-check
/** Which KronA Weights nodes act on the adapter that a node looks at. */

/** @typedef {any} LNode A node of the graph. @typedef {any} Link */

/**
 * The nodes that use the same adapter: whatever hangs on the wires that lead to this node, in either direction.
 * @param {LNode} node With a `krona` input.
 * @returns {LNode[]} In the order in which they were found, without the node itself.
 */
export function users(node) {
  const graph = node.graph;
  const seen = new Set([node]);
  const nodes = [];
  const open = origins(graph, node);
  while (open.length) {
    const next = open.shift();
    if (seen.has(next)) continue;
    seen.add(next);
    nodes.push(next);
    open.push(...origins(graph, next), ...targets(graph, next));
  }
  return nodes;
}

/**
 * @param {LNode} node With a `krona` input.
 * @returns {LNode[]} The KronaWeights nodes that act on its adapter.
 */
export function weightsNodes(node) {
  const nodes = new Set();
  for (const user of users(node)) {
    const slot = weightsSlot(user);
    const origin = slot && linked(node.graph, slot);
    if (origin?.type === "KronaWeights") nodes.add(origin);
  }
  return [...nodes];
}

/**
 * @param {LNode} node With a `krona` input.
 * @returns {LNode | undefined} A node that could take weights and has none.
 */
export function couldTakeWeights(node) {
  return users(node).find((user) => weightsSlot(user) && (weightsSlot(user).link ?? null) === null);
}

/** @param {LNode} node */
function weightsSlot(node) {
  return (node.inputs ?? []).find((/** @type {any} */ slot) => slot.type === "KRONA_WEIGHTS");
}

/** @param {any} graph @param {any} slot */
function linked(graph, slot) {
  const link = slot.link === null || slot.link === undefined ? null : graph.getLink(slot.link);
  return link ? graph.getNodeById(link.origin_id) : null;
}

/** @param {any} graph @param {LNode} node @returns {LNode[]} */
function origins(graph, node) {
  const slots = (node.inputs ?? []).filter((/** @type {any} */ slot) => slot.type === "KRONA");
  return slots.map((/** @type {any} */ slot) => linked(graph, slot)).filter(Boolean);
}

/** @param {any} graph @param {LNode} node @returns {LNode[]} */
function targets(graph, node) {
  const slots = (node.outputs ?? []).filter((/** @type {any} */ slot) => slot.type === "KRONA");
  const links = slots
    .flatMap((/** @type {any} */ slot) => slot.links ?? [])
    .map((/** @type {any} */ id) => graph.getLink(id));
  return links
    .filter(Boolean)
    .map((/** @type {Link} */ link) => graph.getNodeById(link.target_id))
    .filter(Boolean);
}
