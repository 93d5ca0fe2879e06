import assert from "node:assert/strict";
import { test } from "node:test";
import { Live } from "../../../web/training/live.mjs";

const step = (number) => ({ event: "step", step: number, steps: 60, loss: 1 / number, learning_rate: 1e-3, seconds: number });
const run = (more = {}) => ({ id: "robot", state: "training", node: "3", step: 0, steps: 60, loss: null, validation: null, modified: 1, adapter: null, ...more });

/** A server with one run, whose rows a test writes; `page` is how many it hands out at once. */
class FakeServer {
  rows = [];
  runs = [run()];
  asked = [];
  page = 10_000;
  hold = null;
  #heard = {};

  listen(event, heard) {
    this.#heard[event] = heard;
  }

  async ask(route, options) {
    this.asked.push(route);
    if (options?.method === "POST") {
      if (this.runs[0].state !== "training") throw new Error("It is not training.");
      return {};
    }
    if (route === "/runs") return { runs: structuredClone(this.runs) };
    const from = Number(/from=(\d+)/.exec(route)[1]);
    const rows = this.rows.slice(from, from + this.page);
    const answer = { ...this.runs[0], rows, next: from + rows.length, total: this.rows.length };
    if (this.hold) await this.hold;
    return answer;
  }

  say(event, detail) {
    this.#heard[event](detail);
  }

  tell(from, state = "training") {
    this.say("krona.run", { run: "robot", node: "3", state, from, rows: this.rows.slice(from) });
  }
}

const settled = async () => {
  for (let i = 0; i < 20; i += 1) await new Promise((done) => setImmediate(done));
};

async function started(rows = 0, page = 10_000) {
  const server = new FakeServer();
  server.page = page;
  server.rows = Array.from({ length: rows }, (_, i) => step(i + 1));
  const live = new Live(server);
  await live.refresh();
  return { server, live };
}

test("a history is fetched in as many pieces as it takes", async () => {
  const { server, live } = await started(25, 10);
  const history = live.history("robot");
  await settled();
  assert.equal(history.steps.length, 25);
  assert.deepEqual(server.asked.slice(1), ["/runs/robot?from=0", "/runs/robot?from=10", "/runs/robot?from=20"]);
});

test("messages go on where the history ends, without another question", async () => {
  const { server, live } = await started(3);
  const history = live.history("robot");
  await settled();
  const before = server.asked.length;
  server.rows.push(step(4));
  server.tell(3);
  assert.equal(history.steps.length, 4);
  assert.deepEqual([live.run("robot").step, live.run("robot").loss], [4, 0.25]);
  assert.equal(server.asked.length, before);
});

test("rows that were missed are asked for", async () => {
  const { server, live } = await started(3);
  const history = live.history("robot");
  await settled();
  server.rows.push(step(4), step(5), step(6));
  server.tell(5);
  await settled();
  assert.deepEqual(history.steps, [1, 2, 3, 4, 5, 6]);
});

test("rows that come while others are fetched are not lost", async () => {
  const { server, live } = await started(3);
  let release = () => {};
  server.hold = new Promise((done) => (release = done));
  const history = live.history("robot");
  await settled();
  server.hold = null;
  server.rows.push(step(4));
  server.tell(3);
  release();
  await settled();
  assert.deepEqual(history.steps, [1, 2, 3, 4]);
});

test("a run that goes on from an earlier state loses what came after it", async () => {
  const { server, live } = await started(6);
  const history = live.history("robot");
  await settled();
  server.rows.length = 4;
  server.rows.push({ event: "started", step: 4, steps: 60 });
  server.tell(4);
  assert.deepEqual(history.steps, [1, 2, 3, 4]);
});

test("a run that is not in the list yet brings it up to date", async () => {
  const { server, live } = await started();
  server.runs.unshift(run({ id: "dog" }));
  server.say("krona.run", { run: "dog", node: "7", state: "training", from: 0, rows: [step(1)] });
  await settled();
  assert.deepEqual(live.runs.map(({ id }) => id), ["dog", "robot"]);
  assert.equal(live.history("dog").steps.length, 1);
});

test("the end of a run fetches its result", async () => {
  const { server, live } = await started(2);
  live.history("robot");
  await settled();
  server.runs = [run({ state: "finished", node: null, adapter: "robot/adapter.safetensors" })];
  server.rows.push({ event: "ended", step: 2, steps: 60, error: null, stopped: false });
  server.tell(2, "finished");
  await settled();
  assert.deepEqual([live.run("robot").state, live.run("robot").adapter], ["finished", "robot/adapter.safetensors"]);
});

test("what is asked is open until its row arrives", async () => {
  const { server, live } = await started(2);
  live.history("robot");
  await settled();
  await live.ask("robot", "save");
  assert.deepEqual(live.asked("robot"), { ask: "save", after: 2, error: "" });
  server.rows.push({ event: "saved", step: 2, adapter: false });
  server.tell(2);
  assert.ok(live.asked("robot"), "a state of the training's own is not what was asked for");
  server.rows.push({ event: "saved", step: 2, adapter: true });
  server.tell(3);
  assert.equal(live.asked("robot"), undefined);
});

test("stopping is open until the run has ended", async () => {
  const { server, live } = await started(2);
  live.history("robot");
  await settled();
  await live.ask("robot", "finish");
  server.rows.push({ event: "saved", step: 2, adapter: true });
  server.tell(2);
  assert.ok(live.asked("robot"));
  server.rows.push({ event: "ended", step: 2, steps: 60, error: null, stopped: false });
  server.tell(3, "finished");
  assert.equal(live.asked("robot"), undefined);
});

test("why something could not be asked is kept to be read", async () => {
  const { server, live } = await started(2);
  live.history("robot");
  await settled();
  server.runs[0].state = "finished";
  await live.ask("robot", "save");
  assert.equal(live.asked("robot").error, "It is not training.");
});

test("after a lost connection everything is asked for again", async () => {
  const { server, live } = await started(2);
  live.history("robot");
  await settled();
  server.rows = [step(1), { ...step(2), loss: 7 }, step(3)];
  server.say("reconnected");
  await settled();
  assert.deepEqual(live.history("robot").losses, [1, 7, 1 / 3]);
});

test("subscribers are told once about several changes, until they leave", async () => {
  const { server, live } = await started();
  await settled();
  let count = 0;
  const leave = live.subscribe(() => (count += 1));
  server.rows.push(step(1), step(2));
  server.tell(0);
  server.tell(0);
  await settled();
  assert.equal(count, 1);
  leave();
  server.tell(0);
  await settled();
  assert.equal(count, 1);
});

test("a run whose folder is gone is forgotten", async () => {
  const { server, live } = await started(2);
  const history = live.history("robot");
  await settled();
  server.runs = [];
  await live.refresh();
  assert.equal(live.runs.length, 0);
  assert.notEqual(live.history("robot"), history);
});

test("a server that cannot be asked is told, and what was known stays", async () => {
  const { server, live } = await started();
  server.ask = async () => {
    throw new Error("no connection");
  };
  await live.refresh();
  assert.equal(live.error, "no connection");
  assert.equal(live.runs.length, 1);
});

test("a list that is on its way when a run ends is asked for again", async () => {
  const { server, live } = await started(2);
  live.history("robot");
  await settled();
  const { ask } = server;
  let release = () => {};
  const held = new Promise((done) => (release = done));
  server.ask = async (route) => {
    const answer = await ask.call(server, route); // as it was when the question arrived
    await held;
    return answer;
  };
  void live.refresh();
  await settled();
  server.ask = ask;
  server.runs = [run({ state: "finished", node: null, adapter: "robot/adapter.safetensors" })];
  server.rows.push({ event: "ended", step: 2, steps: 60, error: null, stopped: false });
  server.tell(2, "finished");
  release();
  await settled();
  assert.equal(live.run("robot").adapter, "robot/adapter.safetensors");
});
