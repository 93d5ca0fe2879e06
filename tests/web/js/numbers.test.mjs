// @ts-check
import assert from "node:assert/strict";
import test from "node:test";

import { arrowsOf } from "../../../web/numbers/arrows.mjs";

test("the arrows of required and of optional numbers are found, and nothing else", () => {
  const inputs = {
    required: { rate: ["FLOAT", { step: 1e-9, krona_arrows: 1e-5 }], steps: ["INT", { step: 1 }], model: ["MODEL"] },
    optional: { decay: ["FLOAT", { krona_arrows: 0.001 }], odd: ["FLOAT", { krona_arrows: "0.1" }] },
    hidden: { id: ["UNIQUE_ID", { krona_arrows: 3 }] },
  };
  assert.deepEqual([...arrowsOf(inputs)], [["rate", 1e-5], ["decay", 0.001]]);
  assert.equal(arrowsOf(undefined).size, 0);
});
