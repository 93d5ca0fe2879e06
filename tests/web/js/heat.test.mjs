import assert from "node:assert/strict";
import test from "node:test";
import { brief, cellColours, scale, short } from "../../../web/heat/colours.mjs";
import { entries, strengthOf, withStrength } from "../../../web/heat/rules.mjs";
import { couldTakeWeights, users, weightsNodes } from "../../../web/heat/wiring.mjs";

test("entries are read as the server reads them", () => {
  const text = "default=1, input_blocks.4 = 0.5\n*.attn2.*=0,, /to_[q,=]$/=0.3 , q";
  assert.deepEqual(entries(text).map((e) => [e.selector, e.strength]), [
    ["default", "1"], ["input_blocks.4", "0.5"], ["*.attn2.*", "0"], ["/to_[q,=]$/", "0.3"], ["q", ""],
  ]);
  assert.deepEqual(entries(""), []);
  assert.deepEqual(entries(" ,\n, "), []);
});

test("a new strength goes last, and an older one of the same block is taken out", () => {
  assert.equal(withStrength("", "a", 0.5), "a=0.5");
  assert.equal(withStrength("a=1, default=0", "a", 0.25), "default=0, a=0.25");
  assert.equal(withStrength("a=1\nq=0.5\n", "b", 2), "a=1\nq=0.5\nb=2");
  assert.equal(withStrength("a=1, a=2, b=3", "a", null), "b=3");
  assert.equal(withStrength("/a,b/=1, a=2", "/a,b/", 0), "a=2, /a,b/=0");
  assert.equal(withStrength("a=1", "a", null), "");
});

test("comments are no entries, and nothing is written into one", () => {
  assert.deepEqual(entries("# a=1, b=2\nc=3 # d=4").map((e) => e.selector), ["c"]);
  assert.equal(withStrength("# mine", "a", 1), "# mine\na=1");
  assert.equal(withStrength("c=3 # d=4", "a", 1), "c=3 # d=4\na=1");
});

test("what was set is what is read back, whatever stood there", () => {
  const before = ["", "x=1", "a=3, x=2", "/r,s/=1\na=2\n,", "default=0"];
  for (const text of before) {
    for (const value of [0, 0.05, 1, -2, 0.1 + 0.2]) {
      assert.equal(strengthOf(withStrength(text, "a", value), "a"), Number(value.toFixed(4)));
      const others = (t) => entries(t).filter((e) => e.selector !== "a").map((e) => [e.selector, e.strength]);
      assert.deepEqual(others(withStrength(text, "a", value)), others(text));
    }
    assert.equal(strengthOf(withStrength(text, "a", null), "a"), null);
  }
});

test("colours run from the least to the most over three decades at most", () => {
  const place = scale([null, 1, 10, 1e-9, 0]);
  assert.equal(place(10), 1);
  assert.equal(place(1e-9), 0);
  assert.equal(place(0), 0);
  assert.ok(Math.abs(place(1) - 2 / 3) < 1e-12);
  assert.equal(scale([])(1), 1);
  assert.equal(scale([5, 5])(5), 0);
  assert.notDeepEqual(cellColours(0, true), cellColours(1, true));
  assert.deepEqual(cellColours(0, true), cellColours(1, false));
  assert.equal(cellColours(1, true).ink, "#16121d");
  assert.equal(cellColours(0, true).ink, "#ffffff");
});

test("numbers are three digits long", () => {
  assert.deepEqual([0, 1, 0.012345, 123.456, 1234567, 1e-6, null, NaN].map(short), ["0", "1", "0.0123", "123", "1.23e+6", "1.00e-6", "–", "–"]);
  assert.deepEqual([0, 1, 0.012345, 1.26, 99.6, 123.456, 1234567, 0.00153, null].map(brief), ["0", "1", "0.012", "1.3", "100", "123", "1.2e+6", "1.5e-3", "–"]);
});

/** A graph as LiteGraph has it, as far as wiring looks. */
function graphOf(nodes, links) {
  const graph = { getNodeById: (id) => nodes.find((n) => n.id === id), getLink: (id) => links[id] };
  for (const node of nodes) node.graph = graph;
  return graph;
}

const krona = (link = null) => ({ type: "KRONA", link });
const weights = (link = null) => ({ type: "KRONA_WEIGHTS", link });

test("the weights that act on an adapter are found through scales and blends, those of another adapter are not", () => {
  const load = { id: 1, type: "KronaLoad", outputs: [{ type: "KRONA", links: [1, 2] }] };
  const scaled = { id: 2, type: "KronaScale", inputs: [krona(1), weights()], outputs: [{ type: "KRONA", links: [3] }] };
  const look = { id: 3, type: "KronaInspect", inputs: [krona(2)], outputs: [] };
  const apply = { id: 4, type: "KronaApply", inputs: [krona(3), weights(4)], outputs: [] };
  const set = { id: 5, type: "KronaWeights", outputs: [{ type: "KRONA_WEIGHTS", links: [4] }] };
  const other = { id: 6, type: "KronaApply", inputs: [krona(), weights(5)], outputs: [] };
  const others = { id: 7, type: "KronaWeights", outputs: [{ type: "KRONA_WEIGHTS", links: [5] }] };
  const links = {
    1: { origin_id: 1, target_id: 2 }, 2: { origin_id: 1, target_id: 3 }, 3: { origin_id: 2, target_id: 4 },
    4: { origin_id: 5, target_id: 4 }, 5: { origin_id: 7, target_id: 6 },
  };
  graphOf([load, scaled, look, apply, set, other, others], links);
  assert.deepEqual(users(look), [load, scaled, apply]);
  assert.deepEqual(weightsNodes(look), [set]);
  assert.equal(couldTakeWeights(look), scaled);
});

test("a node without wires has neither", () => {
  const look = { id: 3, type: "KronaInspect", inputs: [krona()], outputs: [] };
  graphOf([look], {});
  assert.deepEqual(weightsNodes(look), []);
  assert.equal(couldTakeWeights(look), undefined);
});
