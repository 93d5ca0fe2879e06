// @ts-check
/** A run in numbers, and its log. */
import { element } from "../dom.mjs";
import { clock, duration, exponent, NONE, pace, short, size } from "./format.mjs";
import { bestValidation, smooth, speed, timeLeft } from "./history.mjs";

/**
 * @typedef {import("./history.mjs").History} History
 * @typedef {import("./history.mjs").Entry} Entry
 * @typedef {import("./live.mjs").Run} Run
 * @typedef {import("./plot.mjs").Translate} Translate
 */

const FIGURES = /** @type {const} */ (["loss", "best", "speed", "left", "rate", "memory"]);
const LINES = 500;

export class Details {
  /** @type {HTMLElement} */
  element;
  #t;
  /** @type {Record<string, {label: HTMLElement, value: HTMLElement}>} */
  #figures = {};
  #log;
  /** @type {Entry[]} */
  #entries = [];

  /** @param {Translate} t */
  constructor(t) {
    this.#t = t;
    const list = element("dl", { class: "krona-figures" });
    for (const name of FIGURES) {
      const label = element("dt", {}, t(name));
      const value = element("dd", { "data-figure": name }, NONE);
      this.#figures[name] = { label, value };
      list.append(element("div", {}, label, value));
    }
    this.#log = element("ol", { class: "krona-log", role: "log", tabIndex: 0, "aria-label": t("log") });
    this.element = element("section", { class: "krona-details" }, list, this.#log);
  }

  /** @param {Run | undefined} run @param {History} history @param {number} smoothing */
  show(run, history, smoothing) {
    const t = this.#t;
    const isLive = run?.state === "training";
    const best = bestValidation(history);
    const units = { perSecond: t("perSecond"), perStep: t("perStep") };
    this.#figure("loss", short(smooth(history.losses, smoothing).at(-1)));
    this.#figure("best", best ? `${short(best.loss)} · ${best.step}` : NONE);
    this.#figure("speed", pace(speed(history), units));
    this.#figures.left.label.textContent = t(isLive ? "left" : "took");
    this.#figure(
      "left",
      isLive ? duration(timeLeft(history, run.steps)) : history.steps.length ? duration(history.elapsed.at(-1)) : NONE,
    );
    this.#figure("rate", exponent(history.rates.at(-1)));
    this.#figure("memory", size(history.memory.at(-1)));
    this.#write(history.log);
  }

  /** @param {string} name @param {string} text */
  #figure(name, text) {
    const { value } = this.#figures[name];
    if (value.textContent !== text) value.textContent = text;
  }

  /** @param {Entry[]} entries */
  #write(entries) {
    const wanted = entries.slice(-LINES);
    const isContinued =
      this.#entries.length <= wanted.length && this.#entries.every((entry, at) => entry === wanted[at]);
    const isAtEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 8;
    if (!isContinued) this.#log.replaceChildren();
    const fresh = isContinued ? wanted.slice(this.#entries.length) : wanted;
    this.#log.append(...fresh.map((entry) => line(entry, this.#t)));
    this.#entries = wanted;
    if (fresh.length && (isAtEnd || !isContinued)) this.#log.scrollTop = this.#log.scrollHeight;
  }
}

/** @param {Entry} entry @param {Translate} t */
function line(entry, t) {
  const time = Number.isFinite(entry.time) ? clockOf(entry.time) : clock(entry.elapsed);
  const title = Number.isFinite(entry.time) ? new Date(entry.time * 1000).toLocaleString() : "";
  return element(
    "li",
    { "data-kind": entry.kind },
    element("time", { title }, time),
    element("span", { class: "krona-step", title: t("at", { step: entry.step }) }, String(entry.step)),
    element("span", {}, words(entry, t)),
  );
}

/** @param {Entry} entry @param {Translate} t */
function words(entry, t) {
  if (entry.kind === "note") return entry.text;
  const key = `log${entry.kind[0].toUpperCase()}${entry.kind.slice(1)}`;
  const text = entry.kind === "best" ? short(Number(entry.text)) : entry.text;
  return t(key, { step: entry.step, text, padded: String(entry.step).padStart(6, "0") });
}

/** @param {number} seconds Since 1970. */
function clockOf(seconds) {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}
