// @ts-check
import assert from "node:assert/strict";
import test from "node:test";

import { GAP, inTheMiddleOf, joined, leftOf, overlap, TITLE, under } from "../../../web/places.mjs";

const box = (/** @type {number} */ x, /** @type {number} */ y, width = 200, height = 100) => ({ pos: [x, y], size: [width, height] });

test("a node under the pointer has its title there", () => {
  assert.deepEqual(under([500, 300])(box(0, 0, 240, 80)), [380, 300 + TITLE / 2]);
});

test("a node in the middle of what is seen has as much around it on both sides", () => {
  assert.deepEqual(inTheMiddleOf([100, 50, 1000, 600])(box(0, 0, 300, 120)), [450, 290]);
});

test("to the left of a node is beside it where nothing stands, below everything where something does", () => {
  const user = box(1000, 200);
  const place = leftOf(user, [user, box(0, 0), box(5000, 900)]);
  assert.deepEqual(place(box(0, 0)), [1000 - 200 - GAP, 200]);
  const crowded = leftOf(user, [user, box(800, 0), box(640, 700, 150, 50)]);
  assert.deepEqual(crowded(box(0, 0)), [740, 700 + 50 + GAP]);
});

test("nodes that touch with their titles share a place, and apart on either axis they do not", () => {
  assert.equal(overlap(box(0, 0), box(150, 50)), true);
  assert.equal(overlap(box(0, 0), box(0, 100 + TITLE + GAP / 3)), false);
  assert.equal(overlap(box(0, 0), box(0, 100 + TITLE)), true);
  assert.equal(overlap(box(0, 0), box(200 + GAP / 3, 0)), false);
});

test("what joins stands left of what takes, its sources left of it, and none covers another", () => {
  const [taker, joint, sources] = [box(2000, 100), box(0, 0, 260, 300), [box(0, 0), box(0, 0, 320), box(0, 0)]];
  const others = [box(1700, 0, 100, 300), box(1500, 900)];
  const places = joined(sources, joint, taker, [taker, joint, ...sources, ...others]);
  const put = [
    taker,
    { ...joint, pos: places.joint },
    ...sources.map((source, number) => ({ ...source, pos: places.sources[number] })),
    ...others,
  ];
  for (const one of put) for (const other of put) assert.ok(one === other || !overlap(one, other), JSON.stringify([one, other]));
  assert.equal(places.joint[0] + 260 + GAP, 2000);
  assert.ok(places.sources.every(([left], number) => left + sources[number].size[0] + GAP === places.joint[0]));
});

test("where there is no room at all it stops looking", () => {
  const wall = box(-5000, -5000, 20000, 20000);
  const { joint } = joined([box(0, 0)], box(0, 0), box(0, 0), [wall]);
  assert.ok(joint[1] > 2000 && joint[1] < 2100);
});
