// @ts-check
/** What the server knows of the trainings, kept up to date; one for the whole page. */
import { newHistory, take, truncate } from "./history.mjs";

/**
 * @typedef {import("./history.mjs").History} History
 * @typedef {object} Run As `GET /krona/runs` lists it (docs/api.md).
 * @property {string} id
 * @property {"training" | "finished" | "stopped" | "failed"} state
 * @property {string | null} node
 * @property {number} step
 * @property {number} steps
 * @property {number | null} loss
 * @property {number | null} validation
 * @property {number} modified
 * @property {string | null} adapter
 *
 * @typedef {{run: string, node: string | null, state: Run["state"], from: number, rows: Record<string, any>[]}} Message
 *
 * @typedef {object} Server
 * @property {(route: string, options?: RequestInit) => Promise<any>} ask
 * @property {(event: "krona.run" | "reconnected", heard: (detail: any) => void) => void} listen
 *
 * @typedef {"save" | "finish"} Ask
 * @typedef {{ask: Ask, after: number, error: string}} Asked `after` is the number of rows when it was asked; `error` is
 *   empty while it may work.
 */

export class Live {
  /** @type {Run[]} The newest first. */
  runs = [];
  /** Why the list could not be fetched; empty when all is well. */
  error = "";
  /** Whether the list has come at least once. */
  isKnown = false;
  /** @type {Map<string, History>} */
  #histories = new Map();
  /** @type {Map<string, Promise<void>>} */
  #fetching = new Map();
  /** @type {Set<string>} Runs of which rows came while others were being fetched. */
  #missed = new Set();
  /** @type {Map<string, Asked>} */
  #asked = new Map();
  /** @type {Set<() => void>} */
  #heard = new Set();
  #server;
  #isTelling = false;
  /** @type {Promise<void> | null} */
  #listing = null;
  #isOutdated = false;

  /** @param {Server} server */
  constructor(server) {
    this.#server = server;
    server.listen("krona.run", (message) => this.#take(message));
    server.listen("reconnected", () => void this.#startOver());
  }

  /**
   * Be called after changes, several at once.
   * @param {() => void} heard
   * @returns {() => void} Ends it.
   */
  subscribe(heard) {
    this.#heard.add(heard);
    return () => this.#heard.delete(heard);
  }

  /** @param {string | null | undefined} id @returns {Run | undefined} */
  run(id) {
    return this.runs.find((run) => run.id === id);
  }

  /**
   * What is known of a run; it is fetched, and `subscribe` tells when there is more.
   * @param {string} id
   * @returns {History}
   */
  history(id) {
    const history = this.#histories.get(id);
    if (history) return history;
    const made = newHistory();
    this.#histories.set(id, made);
    void this.#fetch(id);
    return made;
  }

  /**
   * @param {string} id
   * @returns {Asked | undefined} What the run was asked and has not done yet, or why it could not be asked.
   */
  asked(id) {
    return this.#asked.get(id);
  }

  /**
   * Fetch the list of runs; several calls at the same time are one, or two: an answer that is on its way may be too old
   * already.
   */
  refresh() {
    this.#isOutdated = this.#listing !== null;
    this.#listing ??= this.#list().finally(() => {
      this.#listing = null;
      this.#tell();
    });
    return this.#listing;
  }

  /**
   * @param {string} id
   * @param {Ask} what
   */
  async ask(id, what) {
    /** @type {Asked} */
    const asked = { ask: what, after: this.history(id).known, error: "" };
    this.#asked.set(id, asked);
    this.#tell();
    try {
      const body = JSON.stringify({ ask: what });
      const headers = { "Content-Type": "application/json" };
      await this.#server.ask(`/runs/${encodeURIComponent(id)}/requests`, { method: "POST", headers, body });
    } catch (error) {
      asked.error = messageOf(error);
      void this.refresh();
    }
    this.#tell();
  }

  async #list() {
    do {
      this.#isOutdated = false;
      try {
        this.runs = (await this.#server.ask("/runs")).runs;
        this.error = "";
        this.isKnown = true;
      } catch (error) {
        this.error = messageOf(error);
      }
    } while (this.#isOutdated);
    const there = new Set(this.runs.map((run) => run.id));
    if (this.isKnown) for (const id of this.#histories.keys()) if (!there.has(id)) this.#histories.delete(id);
    for (const [id, asked] of this.#asked)
      if (!asked.error && this.run(id)?.state !== "training") this.#asked.delete(id);
  }

  /** @param {Message} message */
  #take(message) {
    if (!message || !Array.isArray(message.rows)) return;
    const history = this.#histories.get(message.run) ?? newHistory();
    this.#histories.set(message.run, history);
    // Rows that come while others are being fetched are in the server's file as well: they are asked for afterwards.
    if (this.#fetching.has(message.run)) {
      if (message.from < history.known) truncate(history, message.from);
      this.#missed.add(message.run);
    } else if (!take(history, message.from, message.rows)) {
      void this.#fetch(message.run);
    }
    this.#note(message);
    this.#settle(message.run, history);
    this.#tell();
  }

  /** The message's facts in the list of runs. @param {Message} message */
  #note(message) {
    const run = this.run(message.run);
    if (!run || message.state !== "training") {
      void this.refresh(); // a new run, or one that is over and has a result now
    }
    if (!run) return;
    run.state = message.state;
    run.node = message.state === "training" ? message.node : null;
    for (const row of message.rows) {
      if (row.event === "step") Object.assign(run, { step: row.step, steps: row.steps ?? run.steps, loss: row.loss });
      else if (row.event === "started") Object.assign(run, { step: row.step, steps: row.steps });
      else if (row.event === "validation") run.validation = row.validation;
    }
  }

  /** Whether what was asked is done. @param {string} id @param {History} history */
  #settle(id, history) {
    const asked = this.#asked.get(id);
    if (!asked) return;
    const isSaved = history.log.some((entry) => entry.kind === "saved" && entry.row >= asked.after);
    const isOver = history.ended !== null && history.ended.row >= asked.after;
    if (isOver || (asked.ask === "save" && isSaved)) this.#asked.delete(id);
  }

  /** @param {string} id @returns {Promise<void>} */
  #fetch(id) {
    const running = this.#fetching.get(id);
    if (running) return running;
    const fetching = this.#fetchAll(id).finally(() => {
      this.#fetching.delete(id);
      this.#tell();
    });
    this.#fetching.set(id, fetching);
    return fetching;
  }

  /** @param {string} id */
  async #fetchAll(id) {
    const history = this.#histories.get(id);
    while (history) {
      const from = history.known;
      this.#missed.delete(id);
      /** @type {any} */
      let answer;
      try {
        answer = await this.#server.ask(`/runs/${encodeURIComponent(id)}?from=${from}`);
      } catch {
        void this.refresh(); // gone, or the server is; the list tells which
        return;
      }
      // A message may have cut the history meanwhile: what was fetched then continues something that is no more.
      const isCut = history.known !== from;
      if (!isCut) take(history, from, answer.rows);
      if (answer.total < history.known) truncate(history, answer.total);
      this.#settle(id, history);
      this.#tell();
      const isMore = history.known < answer.total && history.known > from;
      if (!isCut && !isMore && !this.#missed.has(id)) return;
    }
  }

  /** The connection was lost: whatever was missed, the server has it. */
  async #startOver() {
    this.#asked.clear();
    await this.refresh();
    for (const run of this.runs) {
      if (run.state !== "training" && !this.#histories.has(run.id)) continue;
      this.#histories.delete(run.id);
      this.history(run.id);
    }
  }

  #tell() {
    if (this.#isTelling) return;
    this.#isTelling = true;
    queueMicrotask(() => {
      this.#isTelling = false;
      for (const heard of [...this.#heard]) heard();
    });
  }
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}
