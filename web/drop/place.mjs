// @ts-check
/** What a drop does to the graph. */
import { addNode, select, setValue } from "../graph.mjs";
import { app } from "../host.mjs";
import { joined, under } from "../places.mjs";
import { insert } from "./links.mjs";

/** The nodes that hold a file, by type. */
export const LOADERS = ["KronaLoad", "KronaLoadApply", "KronaBranchApply"];

/** @typedef {{name: string, hasTextEncoder: boolean, isBranch: boolean}} Loaded A file in the loaders' menu. */

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
  const node = addNode(graph, type, { at: under(point), values: { file: file.name } });
  if (wires.length) insert(graph, wires, node, file.hasTextEncoder);
  select([node]);
}

/**
 * Several files as one: a column of loaders, a blend, and a node under the pointer that applies it.
 * @param {Loaded[]} files @param {number[]} point @param {any[]} wires
 */
export function addBlend(files, point, wires) {
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
