// @ts-check
/** The buttons that ask a training for something; in the panel and on the node. */
import { element } from "../dom.mjs";

/**
 * @typedef {import("./live.mjs").Run} Run
 * @typedef {import("./live.mjs").Live} Live
 */

export class Actions {
  /** @type {HTMLElement} */
  element;
  #live;
  #t;
  /** @type {Run | undefined} */
  #run;
  #save;
  #finish;
  #status;

  /** @param {Live} live @param {import("./plot.mjs").Translate} t */
  constructor(live, t) {
    this.#live = live;
    this.#t = t;
    this.#save = button("save", t("saveNow"), t("saveHint"), () => this.#ask("save"));
    this.#finish = button("finish", t("finish"), t("finishHint"), () => this.#ask("finish"));
    this.#status = element("span", { class: "krona-told", role: "status" });
    this.element = element("div", { class: "krona-actions" }, this.#status, this.#save, this.#finish);
  }

  /** @param {Run | undefined} run */
  show(run) {
    this.#run = run;
    const asked = run && this.#live.asked(run.id);
    const waits = asked && !asked.error ? asked.ask : null;
    const isLive = run?.state === "training";
    this.#save.hidden = this.#finish.hidden = !isLive;
    // Not `disabled`: a button that is pressed keeps the focus.
    this.#save.setAttribute("aria-disabled", String(waits !== null));
    this.#finish.setAttribute("aria-disabled", String(waits === "finish"));
    this.#status.classList.toggle("krona-error", Boolean(asked?.error));
    const text =
      asked?.error || (waits ? this.#t(waits === "save" ? "saving" : "finishing") : isLive ? this.#lastSaved(run) : "");
    if (this.#status.textContent !== text) this.#status.textContent = text;
    this.#status.title = text;
  }

  /** @param {Run} run */
  #lastSaved(run) {
    const history = this.#live.history(run.id);
    const saved = history.log.filter((entry) => entry.kind === "saved").at(-1);
    return saved ? this.#t("logSaved", { padded: String(saved.step).padStart(6, "0") }) : "";
  }

  /** @param {import("./live.mjs").Ask} what */
  #ask(what) {
    const pressed = what === "save" ? this.#save : this.#finish;
    if (this.#run && pressed.getAttribute("aria-disabled") !== "true") void this.#live.ask(this.#run.id, what);
  }
}

/** @param {string} name @param {string} text @param {string} title @param {() => void} onclick */
function button(name, text, title, onclick) {
  return element(
    "button",
    { type: "button", class: `krona-run-button krona-${name}`, title, onclick, hidden: true },
    text,
  );
}
