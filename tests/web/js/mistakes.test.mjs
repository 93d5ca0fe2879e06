// @ts-check
import assert from "node:assert/strict";
import test from "node:test";

import { mistakesOf } from "../../../web/mistakes/mistakes.mjs";

const wrong = (/** @type {string} */ input, /** @type {string} */ details, type = "custom_validation_failed") => ({ type, details, extra_info: { input_name: input } });

test("a sentence is told with the input that it is about, once", () => {
  const errors = { 7: { errors: [wrong("folder", "folder - There is no such folder."), wrong("folder", "folder - There is no such folder.")] } };
  assert.deepEqual(mistakesOf(errors, 7), ["folder: There is no such folder."]);
  assert.deepEqual(mistakesOf(errors, 8), []);
});

test("a node inside a subgraph is found by its own number", () => {
  assert.deepEqual(mistakesOf({ "12:7": { errors: [wrong("rules", "rules - No such role.")] } }, 7), ["rules: No such role."]);
});

test("the editor's own errors and answers of another form are left to it", () => {
  assert.deepEqual(mistakesOf({ 7: { errors: [wrong("steps", "steps", "value_smaller_than_min"), wrong("a", "a"), {}] } }, 7), []);
  assert.deepEqual(mistakesOf({ 7: {} }, 7), []);
  assert.deepEqual(mistakesOf(null, 7), []);
});
