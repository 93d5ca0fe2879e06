import assert from "node:assert/strict";
import { test } from "node:test";
import { decimate, extent, linear, logarithmic, logTicks, nearest, path, ticks } from "../../../web/training/chart.mjs";
import { clock, duration, exponent, NONE, pace, short, size } from "../../../web/training/format.mjs";

const close = (a, b) => assert.ok(Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(b)), `${a} is not ${b}`);

test("a scale leads there and back", () => {
  for (const scale of [linear([2, 7], [100, 40]), logarithmic([0.01, 10], [100, 40])]) {
    for (const value of [2.5, 3, 6.9]) close(scale.invert(scale.map(value)), value);
    close(scale.map(scale.domain[0]), 100);
    close(scale.map(scale.domain[1]), 40);
  }
});

test("on a logarithmic scale zero has no place, and equal factors are equal distances", () => {
  const { map } = logarithmic([1, 1000], [0, 300]);
  assert.ok(Number.isNaN(map(0)) && Number.isNaN(map(-1)));
  close(map(100) - map(10), map(1000) - map(100));
});

test("a scale of one value is a scale", () => {
  assert.ok(Number.isFinite(linear([3, 3], [0, 10]).map(3)));
});

test("ticks are round, lie within, and are about as many as wanted", () => {
  for (const [low, high] of [[0, 1], [0.137, 0.192], [1, 60], [0, 100000], [-3, 8], [1e-5, 3e-5]]) {
    for (const count of [2, 5, 9]) {
      const found = ticks(low, high, count);
      assert.ok(found.length >= 1 && found.length <= 2 * count + 1, `${found}`);
      for (const value of found) {
        assert.ok(value >= low - 1e-9 && value <= high + 1e-9);
        assert.ok(String(value).length <= 8, String(value));
      }
    }
  }
  assert.deepEqual(ticks(0, 0.5, 5), [0, 0.1, 0.2, 0.3, 0.4, 0.5]);
  assert.deepEqual(ticks(4, 4, 5), [4]);
});

test("logarithmic ticks are powers of ten, with 2 and 5 where there is room", () => {
  assert.deepEqual(logTicks(0.001, 1000, 7), [0.001, 0.01, 0.1, 1, 10, 100, 1000]);
  assert.deepEqual(logTicks(0.04, 3, 6), [0.05, 0.1, 0.2, 0.5, 1, 2]);
  assert.ok(logTicks(0.2, 0.5, 4).length >= 2);
});

test("the extent leaves out what cannot be drawn", () => {
  const [low, high] = extent([[1, NaN, 3], [2, Infinity]]);
  assert.ok(low < 1 && low >= 0 && high > 3 && high < 4);
  assert.deepEqual(extent([[]]), [0, 1]);
  const [least] = extent([[0, 0.5, 2]], true);
  assert.ok(least > 0.4);
});

test("of many points per pixel the extremes stay, and few are drawn", () => {
  const count = 100_000;
  const xs = Array.from({ length: count }, (_, i) => i + 1);
  const ys = xs.map((x) => Math.sin(x / 1000) + ((x * 7919) % 101) / 200);
  ys[31_415] = 17;
  ys[92_653] = -17;
  const width = 800;
  const { map } = linear([1, count], [0, width]);
  const kept = decimate(xs, ys, map);
  assert.ok(kept.length <= 4 * (width + 1));
  assert.ok(kept.includes(31_415) && kept.includes(92_653));
  assert.equal(kept[0], 0);
  assert.equal(kept.at(-1), count - 1);
  assert.ok(kept.every((index, i) => i === 0 || index > kept[i - 1]));
  const low = new Map();
  xs.forEach((x, i) => low.set(Math.floor(map(x)), Math.min(low.get(Math.floor(map(x))) ?? Infinity, ys[i])));
  const drawn = new Map();
  for (const i of kept) drawn.set(Math.floor(map(xs[i])), Math.min(drawn.get(Math.floor(map(xs[i]))) ?? Infinity, ys[i]));
  assert.deepEqual(drawn, low);
});

test("few points are all drawn", () => {
  assert.deepEqual(decimate([1, 2, 3], [5, 5, 5], (x) => 100 * x), [0, 1, 2]);
  assert.deepEqual(decimate([], [], (x) => x), []);
});

test("a path is broken where there is nothing to draw", () => {
  const scale = linear([0, 10], [0, 10]);
  assert.equal(path([0, 1, 2, 3], [1, 2, NaN, 4], scale, scale), "M0.0 1.0L1.0 2.0M3.0 4.0");
});

test("the nearest of many", () => {
  const values = [1, 2, 5, 9, 20];
  for (let wanted = -3; wanted < 25; wanted += 0.3) {
    const best = Math.min(...values.map((value) => Math.abs(value - wanted)));
    assert.equal(Math.abs(values[nearest(values, wanted)] - wanted), best);
  }
  assert.equal(nearest([], 3), -1);
  assert.equal(nearest([4], 3), 0);
});

test("numbers as people read them", () => {
  assert.deepEqual([0.1, 1.23456, 12345, 0.00012, 0, null, NaN].map(short), ["0.1000", "1.235", "12345", "1.2e-4", "0", NONE, NONE]);
  assert.deepEqual([5e-4, 1e-3, 0.05, 0, 2.5e-5].map(exponent), ["5e-4", "1e-3", "0.05", "0", "2.5e-5"]);
  assert.deepEqual([4.4, 189, 7389, NaN].map(duration), ["4 s", "3:09", "2:03:09", NONE]);
  assert.equal(clock(0), "0:00");
  const units = { perSecond: "steps/s", perStep: "s/step" };
  assert.deepEqual([12.345, 0.25, NaN].map((value) => pace(value, units)), ["12.3 steps/s", "4.00 s/step", NONE]);
  assert.deepEqual([3 * 2 ** 30, 2 ** 29, undefined].map(size), ["3.0 GiB", "512 MiB", NONE]);
});
