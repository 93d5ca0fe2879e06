import assert from "node:assert/strict";
import { test } from "node:test";
import { bestValidation, median, newHistory, smooth, speed, take, timeLeft, truncate } from "../../../web/training/history.mjs";

const step = (number, seconds = number, more = {}) => ({
  event: "step", step: number, steps: 60, loss: 1 / number, learning_rate: 5e-4, seconds, memory: 1000 + number, time: 1.79e9 + seconds, ...more,
});

function historyOf(...rows) {
  const history = newHistory();
  assert.ok(take(history, 0, rows));
  return history;
}

test("rows become columns, one entry per step", () => {
  const history = historyOf({ event: "started", step: 0, steps: 60, notes: ["a"] }, step(1), step(2), step(3));
  assert.deepEqual(history.steps, [1, 2, 3]);
  assert.deepEqual(history.losses, [1, 1 / 2, 1 / 3]);
  assert.deepEqual(history.rates, [5e-4, 5e-4, 5e-4]);
  assert.deepEqual(history.memory, [1001, 1002, 1003]);
  assert.equal(history.total, 60);
  assert.equal(history.known, 4);
  assert.deepEqual(history.log.map(({ kind }) => kind), ["started", "note"]);
});

test("adapters that are trained besides are named once, where the training begins", () => {
  const history = historyOf({ event: "started", step: 0, steps: 60, others: ["critic", "fake"] }, { event: "started", step: 2, others: [] });
  assert.deepEqual(history.log.map(({ kind, text }) => [kind, text]), [["started", ""], ["others", "critic, fake"], ["resumed", ""]]);
});

test("losses of adapters that are trained besides stand beside each step, where they are numbers", () => {
  const history = historyOf(step(1), step(2, 2, { losses: { score: 0.5, worse: "x" } }), step(3, 3, { losses: 7 }));
  assert.deepEqual(history.others, [{}, { score: 0.5 }, {}]);
});

test("in pieces is the same as at once", () => {
  const rows = [step(1), { event: "preview", step: 1, pictures: ["a.png", "b.png"] }, step(2), { event: "validation", step: 2, validation: 0.5, best: true }];
  const whole = historyOf(...rows);
  const pieces = newHistory();
  rows.forEach((row, number) => assert.ok(take(pieces, number, [row])));
  assert.deepEqual(pieces, whole);
});

test("rows that do not follow on what is known change nothing", () => {
  const history = historyOf(step(1));
  const before = structuredClone(history);
  assert.equal(take(history, 3, [step(4)]), false);
  assert.deepEqual(history, before);
});

test("a smaller number forgets what came after it", () => {
  const rows = [step(1), step(2), { event: "preview", step: 2, pictures: ["a.png"] }, step(3), { event: "validation", step: 3, validation: 1, best: true }];
  const history = historyOf(...rows);
  assert.ok(take(history, 2, [step(3, 9)]));
  assert.deepEqual(history.steps, [1, 2, 3]);
  assert.deepEqual(history.seconds, [1, 2, 9]);
  assert.deepEqual([history.previews, history.validations, history.log], [[], [], []]);
  assert.equal(history.known, 3);
  truncate(history, 0);
  assert.deepEqual(history, { ...newHistory(), total: 60 });
});

test("the clock of a resumed run goes on where it stopped", () => {
  const history = historyOf(step(1, 2), step(2, 3), { event: "started", step: 2, steps: 60 }, step(3, 1.5), step(4, 2.5));
  assert.deepEqual(history.elapsed, [2, 3, 4.5, 5.5]);
  assert.deepEqual(history.durations, [NaN, 1, NaN, 1]);
  assert.deepEqual(history.log.map(({ kind, step: at }) => [kind, at]), [["resumed", 2]]);
});

test("lost rows leave a gap, and their time is shared", () => {
  const history = historyOf(step(1, 1), step(5, 9));
  assert.deepEqual(history.steps, [1, 5]);
  assert.equal(history.durations[1], 2);
});

test("a step that comes again replaces those from it on", () => {
  const history = historyOf(step(1), step(2), step(3), step(2, 7, { loss: 9 }));
  assert.deepEqual(history.steps, [1, 2]);
  assert.deepEqual(history.losses, [1, 9]);
});

test("previews and validations of a step that comes again replace the old ones", () => {
  const preview = (number) => ({ event: "preview", step: number, pictures: ["a.png"] });
  const history = historyOf(preview(10), preview(20), preview(10));
  assert.deepEqual(history.previews.map(({ step: at, row }) => [at, row]), [[10, 2]]);
});

test("damaged and unknown rows are counted and otherwise ignored", () => {
  const odd = [null, 7, "step", {}, { event: "step", step: 1 }, { event: "step", step: "2", loss: 1 }, { event: "tomorrow", step: 3 }, { event: "toString", step: 1 },
    { event: "step", step: 1, loss: NaN }, { event: "validation", step: 1 }, { event: "preview", step: 1, pictures: [] }, { event: "note", step: 1, text: 4 }];
  const history = historyOf(...odd, step(1));
  assert.deepEqual(history.steps, [1]);
  assert.deepEqual([history.validations, history.previews, history.log], [[], [], []]);
  assert.equal(history.known, odd.length + 1);
});

test("rows of old versions, which have neither memory nor time", () => {
  const { memory, time, ...old } = step(1);
  const history = historyOf(old);
  assert.deepEqual(history.memory, [NaN]);
  assert.equal(historyOf({ event: "note", step: 1, text: "x" }).log[0].time, NaN);
});

test("saved, stopped, failed and finished are told apart", () => {
  const rows = [{ event: "saved", step: 5, adapter: true }, { event: "saved", step: 5, adapter: false }, { event: "ended", step: 6, steps: 60, error: null, stopped: true },
    { event: "ended", step: 6, steps: 60, error: "OutOfMemory", stopped: false }, { event: "ended", step: 6, steps: 60, error: null, stopped: false }];
  const history = historyOf(...rows);
  assert.deepEqual(history.log.map(({ kind }) => kind), ["saved", "kept", "stopped", "failed", "finished"]);
  assert.deepEqual(history.ended, { step: 6, isStopped: false, error: "", row: 4 });
  truncate(history, 4);
  assert.equal(history.ended, null);
});

test("smoothing is an average without bias: a constant stays one from the first value on", () => {
  for (const weight of [0, 0.5, 0.9, 0.999]) {
    for (const value of smooth([3, 3, 3, 3], weight)) assert.ok(Math.abs(value - 3) < 1e-9);
  }
});

test("smoothing weighs the values of the past by powers of the weight", () => {
  const values = [4, 1, 7, 2, 5];
  const weight = 0.7;
  const got = smooth(values, weight);
  values.forEach((_, n) => {
    const weights = values.slice(0, n + 1).map((__, i) => weight ** (n - i));
    const expected = weights.reduce((sum, each, i) => sum + each * values[i], 0) / weights.reduce((sum, each) => sum + each, 0);
    assert.ok(Math.abs(got[n] - expected) < 1e-12);
  });
  assert.deepEqual([...smooth(values, 0)], values);
});

test("the median ignores what is no number", () => {
  assert.equal(median([3, NaN, 1, 2]), 2);
  assert.equal(median([4, 1]), 2.5);
  assert.ok(Number.isNaN(median([NaN])));
});

test("the speed is not disturbed by a preview, the time left counts it", () => {
  const rows = Array.from({ length: 10 }, (_, i) => step(i + 1, i + (i >= 5 ? 10 : 0)));
  const history = historyOf(...rows);
  assert.equal(speed(history), 1);
  assert.ok(Math.abs(timeLeft(history, 20) - 10 * (19 / 9)) < 1e-9);
  assert.equal(timeLeft(history, 10), 0);
  assert.ok(Number.isNaN(timeLeft(newHistory(), 10)));
});

test("the best validation is the lowest, the first of equals", () => {
  const rows = [5, 3, 3, 4].map((validation, i) => ({ event: "validation", step: i + 1, validation, best: false }));
  assert.equal(bestValidation(historyOf(...rows))?.step, 2);
  assert.equal(bestValidation(newHistory()), undefined);
});
