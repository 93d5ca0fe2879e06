// @ts-check
/** What a drop does to the graph. */
import { PUBLISHED } from "../adapter/recognise.mjs";
import { addNode, select, setValue } from "../graph.mjs";
import { app } from "../host.mjs";
import { GAP, joined, under } from "../places.mjs";
import { insert } from "./links.mjs";

/** The nodes that hold a file, by type. */
export const LOADERS = ["KronaLoad", "KronaLoadApply", "KronaBranchApply"];

/**
 * A file in the loaders' menu. `half` and `levels`: of one of two files that are one adapter, see `adapter/pair.mjs`;
 * `other`: the second one, where both are there.
 * @typedef {{name: string, hasTextEncoder: boolean, isBranch: boolean, hasMatrices: boolean,
 *   half: import("../adapter/pair.mjs").Half, levels: number, other?: string}} Loaded
 */

/** @param {string} name @param {import("../adapter/recognise.mjs").Recognised} facts @returns {Loaded} */
export function loadedAs(name, { hasTextEncoder, branches, format, half, levels }) {
  const isBranch = branches.length > 0;
  return { name, hasTextEncoder, isBranch, hasMatrices: format === PUBLISHED, half, levels };
}

/** The loader of ours at a point of the open graph. @param {number[]} point @returns {any} */
export function loaderAt([x, y]) {
  const node = app.canvas.graph.getNodeOnPos(x, y);
  return LOADERS.includes(node?.comfyClass) ? node : null;
}

/** @param {any} node A loader. @param {string} name As its menu has it. */
export function chooseFile(node, name) {
  setValue(node, "file", name);
}

/**
 * One node that loads and applies a file, under the pointer, and in the wires that are there.
 * @param {Loaded} file @param {number[]} point @param {any[]} wires
 */
export function addOne(file, point, wires) {
  const { graph } = app.canvas;
  const type = file.isBranch ? "KronaBranchApply" : "KronaLoadApply";
  const node = addNode(graph, type, { at: under(point), values: valuesOf(file) });
  if (wires.length) insert(graph, wires, node, file.hasTextEncoder);
  select([node]);
}

/** What the widgets of its loader hold. @param {Loaded} file */
function valuesOf({ name, other }) {
  return other ? { file: name, other_file: other } : { file: name };
}

/**
 * Several files: as one; or one after the other where they are branches and one has matrices of its own, as MV-Adapter's
 * and I2V-Adapter's files have (the mean of two authors' matrices is no branch of either), or where one holds values of
 * norms, which become changes on a model.
 * @param {Loaded[]} files @param {number[]} point @param {any[]} wires
 */
export function addSeveral(files, point, wires) {
  const areBranches = files.every((file) => file.isBranch) && files.some((file) => file.hasMatrices);
  const haveValues = files.some((file) => file.other || file.half === "norm values");
  if (areBranches || haveValues) addRow(files, point, wires);
  else addBlend(files, point, wires);
}

/** @param {Loaded[]} files @param {number[]} point @param {any[]} wires */
function addRow(files, point, wires) {
  const { graph } = app.canvas;
  let at = under(point);
  const nodes = files.map((file) => {
    const type = file.isBranch ? "KronaBranchApply" : "KronaLoadApply";
    const node = addNode(graph, type, { at, values: valuesOf(file) });
    const [x, y] = [node.pos[0] + node.size[0] + GAP, node.pos[1]];
    at = () => [x, y];
    return node;
  });
  // The first one takes the wires, each next one the output of the one before.
  if (wires.length) insert(graph, wires, nodes[0], false);
  nodes.slice(1).forEach((node, number) => {
    const before = nodes[number];
    const taken = [...(before.outputs[0].links ?? [])].map((id) => graph.getLink(id)).filter(Boolean);
    if (taken.length) insert(graph, taken, node, false);
    else before.connect(0, node, "model");
  });
  select(nodes);
}

/**
 * Several files as one: a column of loaders, a blend, and a node under the pointer that applies it.
 * @param {Loaded[]} files @param {number[]} point @param {any[]} wires
 */
function addBlend(files, point, wires) {
  const { graph } = app.canvas;
  const type = files.every((file) => file.isBranch) ? "KronaBranchApply" : "KronaApply";
  const apply = addNode(graph, type, { at: under(point) });
  const blend = addNode(graph, "KronaBlend", { at: () => [...point], into: { node: apply, input: "krona" } });
  const loaders = files.map(({ name }, number) => {
    const into = { node: blend, input: `adapters.krona${number}` };
    return addNode(graph, "KronaLoad", { at: () => [...point], values: { file: name }, into });
  });
  // When all are wired: the blend grows with every input that is taken.
  const places = joined(loaders, blend, apply, graph.nodes);
  blend.pos = places.joint;
  loaders.forEach((loader, number) => (loader.pos = places.sources[number]));
  const hasTextEncoder = files.some((file) => file.hasTextEncoder);
  if (wires.length) insert(graph, wires, apply, hasTextEncoder);
  select([...loaders, blend, apply]);
}
