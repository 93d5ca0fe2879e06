import assert from "node:assert/strict";
import test from "node:test";
import { kindOf } from "../../../web/drop/names.mjs";
import { numbers, products } from "../../../web/loader/format.mjs";
import { find } from "../../../web/loader/search.mjs";
import { watchValue } from "../../../web/loader/watch.mjs";

const NAMES = ["krona/robot-final.safetensors", "portrait.safetensors", "Robot draft.safetensors", "old/microbot final.safetensors", "Café.safetensors"];

test("any parts of a name find it, in any order and case", () => {
  assert.deepEqual(find(NAMES, "FIN rob"), ["krona/robot-final.safetensors", "old/microbot final.safetensors"]);
  assert.deepEqual(find(NAMES, "draft robot"), ["Robot draft.safetensors"]);
  assert.deepEqual(find(NAMES, "zzz"), []);
  assert.deepEqual(find(NAMES, "cafe\u0301"), ["Café.safetensors"]);
});

test("without parts every name is there, in its order", () => {
  assert.deepEqual(find(NAMES, "  "), NAMES);
});

test("a part at the beginning of a word counts more", () => {
  assert.deepEqual(find(["old/microbot.safetensors", "robot.safetensors"], "robot"), ["robot.safetensors", "old/microbot.safetensors"]);
  assert.deepEqual(find(["mybots.safetensors", "a-bot.safetensors"], "bot"), ["a-bot.safetensors", "mybots.safetensors"]);
});

test("files are told apart by their names", () => {
  assert.deepEqual(["a.safetensors", "A.SAFETENSORS", "a.b.PT", "x.pth", "x.ckpt", "x.bin", "x.pkl"].map(kindOf), [
    "safetensors", "safetensors", "pickle", "pickle", "pickle", "pickle", "pickle",
  ]);
  assert.deepEqual(["a.sft", "a.b.SFT"].map(kindOf), ["safetensors", "safetensors"]);
  assert.deepEqual(["a.png", "safetensors", "sft", "a.safetensors.txt", "", "a."].map(kindOf), Array(6).fill("other"));
});

test("numbers in few words", () => {
  const t = (key, values = {}) => [key, ...Object.values(values)].join(":");
  const facts = { factors: [{ a: [64, 4], b: [20, 320], layers: 3 }, { a: [2, 2], b: [5, 5, 3, 3], layers: 1 }], rank: 8, layers: 4, bytes: 7_749_120 };
  assert.deepEqual(numbers(facts, t), ["64×4 ⊗ 20×320", "oneOther", "rank:8", "layers:4", "size:7.7"]);
  assert.equal(numbers({ ...facts, factors: [...facts.factors, facts.factors[0]] }, t)[1], "others:2");
  assert.equal(products(facts.factors, t), "64×4 ⊗ 20×320: layers:3\n2×2 ⊗ 5×5×3×3: oneLayer");
  assert.deepEqual(numbers({ factors: [], rank: null, layers: 1, bytes: 1234 }, t), ["oneLayer", "size:0.001"]);
});

for (const [how, make] of Object.entries({
  "accessors of a class": () => new (class { #value = "a"; get value() { return this.#value; } set value(value) { this.#value = value; } })(),
  "a plain property": () => ({ value: "a" }),
})) {
  test(`a value is watched behind ${how}`, () => {
    const widget = make();
    const seen = [];
    widget.callback = (value) => `called with ${value}`;
    const check = watchValue(widget, () => seen.push(widget.value));
    widget.value = "b";
    widget.value = "b";
    assert.equal(widget.callback("b"), "called with b");
    widget.value = "c";
    check();
    assert.deepEqual(seen, ["b", "c"]);
  });
}
