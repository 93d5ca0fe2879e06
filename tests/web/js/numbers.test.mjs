// @ts-check
import assert from "node:assert/strict";
import test from "node:test";

import { arrowsOf, shortest } from "../../../web/numbers/arrows.mjs";

test("the arrows of required and of optional numbers are found, and nothing else", () => {
  const inputs = {
    required: { rate: ["FLOAT", { step: 1e-9, krona_arrows: 1e-5 }], steps: ["INT", { step: 1 }], model: ["MODEL"] },
    optional: { decay: ["FLOAT", { krona_arrows: 0.001 }], odd: ["FLOAT", { krona_arrows: "0.1" }] },
    hidden: { id: ["UNIQUE_ID", { krona_arrows: 3 }] },
  };
  assert.deepEqual([...arrowsOf(inputs)], [["rate", 1e-5], ["decay", 0.001]]);
  assert.equal(arrowsOf(undefined).size, 0);
});

test("a number is shown with the decimals that it has", () => {
  const told = [1, 0.5, 0.1 + 0.2, 5e-6, 2.5e-8, -0.125, 100, 0, "0.50", "none"].map(shortest);
  assert.deepEqual(told, ["1", "0.5", "0.3", "0.000005", "2.5e-8", "-0.125", "100", "0", "0.5", "none"]);
});
