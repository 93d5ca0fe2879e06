// @ts-check
/** The panel: the runs on the left; of the chosen one the chart, the previews, the numbers and the log. */
import { element } from "../dom.mjs";
import { Actions } from "./actions.mjs";
import { Details } from "./details.mjs";
import { newHistory } from "./history.mjs";
import { List } from "./list.mjs";
import { Plot } from "./plot.mjs";
import { Previews } from "./previews.mjs";

/**
 * @typedef {import("./live.mjs").Live} Live
 * @typedef {import("./live.mjs").Run} Run
 * @typedef {import("./plot.mjs").Translate} Translate
 * @typedef {{smoothing: number, isLogarithmic: boolean}} Options
 * @typedef {object} Surroundings
 * @property {Live} live
 * @property {Translate} t
 * @property {(run: string, preview: import("./history.mjs").Preview, number: number) => string} picture Its address.
 * @property {(adapter: string) => void} load Add a node with this adapter to the graph.
 * @property {{read: () => Options, write: (options: Options) => void}} options What the user has chosen about the
 *   chart.
 */

const NOTHING = newHistory();

export class Panel {
  /** @type {HTMLElement} */
  element;
  #around;
  #options;
  /** @type {string | null} The run that the user has chosen; null follows the one that trains, or the newest. */
  #chosen = null;
  /** @type {string | null} */
  #shown = null;
  /** @type {string | null} */
  #compared = null;
  #list;
  #head;
  #plot;
  #previews;
  #details;
  #body;
  #empty;
  #legend;
  #waiting;
  #isAwaited = false;
  #unsubscribe;

  /** @param {Surroundings} around */
  constructor(around) {
    const { live, t, options } = around;
    this.#around = around;
    this.#options = options.read();
    this.#list = new List(t, { select: (id) => this.select(id), compare: (id) => this.#compare(id) });
    this.#head = new Head(around);
    this.#plot = new Plot(t, (step) => this.#previews.goTo(step));
    this.#previews = new Previews(t, () => this.show());
    this.#details = new Details(t);
    this.#legend = element("div", { class: "krona-legend" });
    this.#waiting = element("p", { class: "krona-hint krona-waiting", hidden: true }, t("waiting"));
    const bar = element("div", { class: "krona-bar" }, this.#legend, ...this.#controls());
    const chart = element("section", { class: "krona-chart" }, bar, this.#plot.element, this.#waiting);
    const columns = element("div", { class: "krona-columns" }, chart, this.#previews.element, this.#details.element);
    this.#body = element("div", { class: "krona-main" }, this.#head.element, columns);
    this.#empty = element("p", { class: "krona-hint krona-empty" });
    this.element = element("div", { class: "krona-panel krona-training" }, this.#list.element, this.#body, this.#empty);
    this.#unsubscribe = live.subscribe(() => this.#soon());
    void live.refresh();
  }

  /** The panel is no longer seen. */
  end() {
    this.#unsubscribe();
    this.#plot.end();
  }

  /** @param {string} id */
  select(id) {
    if (id !== this.#shown) this.#previews.reset();
    this.#chosen = id;
    if (this.#compared === id) this.#compared = null;
    this.show();
  }

  /** @param {string | null} id */
  #compare(id) {
    this.#compared = id;
    this.#chosen ??= this.#shown; // it stays what the other one is compared with
    this.show();
  }

  #controls() {
    const { t } = this.#around;
    const { smoothing, isLogarithmic } = this.#options;
    const range = element("input", {
      type: "range",
      min: "0",
      max: "0.99",
      step: "0.01",
      value: String(smoothing),
      oninput: () => this.#set({ smoothing: Number(range.value) }),
    });
    const check = element("input", {
      type: "checkbox",
      checked: isLogarithmic,
      onchange: () => this.#set({ isLogarithmic: check.checked }),
    });
    return [
      element("label", { class: "krona-smoothing" }, t("smoothing"), range),
      element("label", { class: "krona-logarithmic" }, check, t("logarithmic")),
    ];
  }

  /** @param {Partial<Options>} change */
  #set(change) {
    this.#options = { ...this.#options, ...change };
    this.#around.options.write(this.#options);
    this.show();
  }

  /** Once per frame at most; a page in the background has no frames, and draws when it is seen again. */
  #soon() {
    if (this.#isAwaited) return;
    this.#isAwaited = true;
    requestAnimationFrame(() => {
      this.#isAwaited = false;
      if (this.element.isConnected) this.show();
    });
  }

  /** Bring everything up to date. */
  show() {
    const { live, t, picture } = this.#around;
    const run = live.run(this.#chosen) ?? live.runs.find((each) => each.state === "training") ?? live.runs[0];
    if (run?.id !== this.#shown) this.#previews.reset();
    this.#shown = run?.id ?? null;
    const other = live.run(this.#compared);
    this.#list.show(live.runs, this.#shown, other?.id ?? null);
    this.#body.hidden = this.#list.element.hidden = run === undefined;
    this.#empty.hidden = run !== undefined;
    this.#empty.textContent = live.error ? t("unreachable", { error: live.error }) : live.isKnown ? t("empty") : "";
    const history = run ? live.history(run.id) : NOTHING;
    this.element.dataset.run = run?.id ?? "";
    this.#head.show(run);
    this.#previews.show(history.previews, (preview, number) => picture(run?.id ?? "", preview, number));
    this.#details.show(run, history, this.#options.smoothing);
    this.#draw(run, history, other);
  }

  /** @param {Run | undefined} run @param {import("./history.mjs").History} history @param {Run | undefined} other */
  #draw(run, history, other) {
    const series = run ? [{ name: run.id, history }] : [];
    if (run && other) series.push({ name: other.id, history: this.#around.live.history(other.id) });
    this.#waiting.hidden = !(run?.state === "training" && history.steps.length === 0);
    this.#plot.show({ series, ...this.#options, preview: this.#previews.step });
    this.#legend.replaceChildren(
      ...series.map(({ name }, number) =>
        element("span", { class: `krona-name krona-series-${number}`, title: name }, name),
      ),
      ...(series.some((each) => each.history.validations.length) ? [this.#key("validation")] : []),
    );
  }

  /** @param {string} name */
  #key(name) {
    return element("span", { class: `krona-key krona-key-${name}` }, this.#around.t(name));
  }
}

/** The line above everything: the run's name, where it is, and its buttons. */
class Head {
  /** @type {HTMLElement} */
  element;
  #around;
  #dot = element("i", { class: "krona-dot" });
  #name = element("h3");
  #state = element("span", { class: "krona-state" });
  #bar = element("div", { class: "krona-progress", role: "progressbar", "aria-valuemin": 0 }, element("i"));
  #actions;
  #load;
  /** @type {Run | undefined} */
  #run;

  /** @param {Surroundings} around */
  constructor(around) {
    const { live, t, load } = around;
    this.#around = around;
    this.#actions = new Actions(live, t);
    this.#load = element(
      "button",
      {
        type: "button",
        class: "krona-run-button krona-load",
        hidden: true,
        onclick: () => this.#run?.adapter && load(this.#run.adapter),
      },
      t("load"),
    );
    const title = element("div", { class: "krona-run-title" }, this.#dot, this.#name, this.#state);
    this.element = element("header", { class: "krona-head" }, title, this.#bar, this.#actions.element, this.#load);
  }

  /** @param {Run | undefined} run */
  show(run) {
    this.#run = run;
    this.#actions.show(run);
    if (!run) return;
    const { t, live } = this.#around;
    this.#dot.dataset.state = run.state;
    this.#name.textContent = run.id;
    this.#name.title = run.adapter ?? run.id;
    this.#state.textContent = `${t(run.state)}, ${t("stepOf", { step: run.step, steps: run.steps })}`;
    const error = run.state === "failed" ? (live.history(run.id).ended?.error ?? "") : "";
    this.#state.title = error || this.#state.textContent;
    this.#bar.dataset.state = run.state;
    this.#bar.setAttribute("aria-valuenow", String(run.step));
    this.#bar.setAttribute("aria-valuemax", String(run.steps));
    this.#bar.setAttribute("aria-label", this.#state.textContent);
    this.#bar.firstElementChild.style.width = `${(100 * run.step) / Math.max(1, run.steps)}%`;
    this.#load.hidden = run.adapter === null || run.state === "training";
    this.#load.title = t("loadHint", { adapter: run.adapter ?? "" });
  }
}
