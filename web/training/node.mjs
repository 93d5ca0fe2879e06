// @ts-check
/** The small chart in the Train KronA node. */
import { element, svg } from "../dom.mjs";
import { Actions } from "./actions.mjs";
import { extent, linear, path } from "./chart.mjs";
import { duration, short } from "./format.mjs";
import { newHistory, smooth, timeLeft } from "./history.mjs";

/**
 * @typedef {import("./live.mjs").Live} Live
 * @typedef {import("./live.mjs").Run} Run
 * @typedef {object} Place
 * @property {Live} live
 * @property {import("./plot.mjs").Translate} t
 * @property {import("./panel.mjs").Surroundings["picture"]} picture
 * @property {(run: Run) => boolean} isMine Whether this node trains the run.
 * @property {() => string | null} last The run that the node has trained last.
 * @property {(id: string) => void} remember
 * @property {(run: string | null) => void} open Show the panel, with this run.
 * @property {() => void} resized The card wants another height now.
 */

const WIDTH = 300;
const HEIGHT = 70;
const SMOOTHING = 0.9;
const NOTHING = newHistory();
/** Pixels that the card needs, without and with a run. */
const SMALL = 60;
const LARGE = 164;

export class Card {
  /** @type {HTMLElement} */
  element;
  #place;
  #facts = element("span", { class: "krona-run-facts" });
  #dot = element("i", { class: "krona-dot" });
  #raw = svg("path", { class: "krona-raw" });
  #smooth = svg("path", { class: "krona-smooth" });
  #picture = element("img", { alt: "", hidden: true, draggable: false });
  #body;
  #actions;
  #open;
  #isAwaited = false;
  #unsubscribe;
  /** @type {Run | undefined} */
  #run;

  /** @param {Place} place */
  constructor(place) {
    const { live, t } = place;
    this.#place = place;
    this.#actions = new Actions(live, t);
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("g", { class: "krona-series krona-series-0" }, this.#raw, this.#smooth),
    );
    this.#body = element("div", { class: "krona-card-body" }, drawing, this.#picture);
    this.#open = element(
      "button",
      {
        type: "button",
        class: "krona-run-button krona-open",
        title: t("open"),
        "aria-label": t("open"),
        onclick: () => place.open(this.#run?.id ?? null),
      },
      element("i", { class: "pi pi-chart-line" }),
    );
    const head = element("div", { class: "krona-card-head" }, this.#dot, this.#facts);
    const foot = element("div", { class: "krona-card-foot" }, this.#actions.element, this.#open);
    this.element = element("div", { class: "krona-card krona-train-card", "data-points": 0 }, head, this.#body, foot);
    this.#unsubscribe = live.subscribe(() => this.#soon());
    this.show();
  }

  /** Pixels that the card needs. */
  get height() {
    return this.#run ? LARGE : SMALL;
  }

  end() {
    this.#unsubscribe();
  }

  #soon() {
    if (this.#isAwaited) return;
    this.#isAwaited = true;
    requestAnimationFrame(() => {
      this.#isAwaited = false;
      this.show();
    });
  }

  show() {
    const { live, t, isMine, last, remember, resized } = this.#place;
    const mine = live.runs.find((run) => run.state === "training" && isMine(run));
    if (mine && mine.id !== last()) remember(mine.id);
    const before = this.#run?.id;
    this.#run = mine ?? live.run(last());
    const history = this.#run ? live.history(this.#run.id) : NOTHING;
    this.element.classList.toggle("krona-without-run", this.#run === undefined);
    this.element.dataset.points = String(history.steps.length);
    this.element.dataset.run = this.#run?.id ?? "";
    this.#dot.dataset.state = this.#run?.state ?? "";
    this.#dot.hidden = this.#body.hidden = this.#run === undefined;
    this.#facts.textContent = this.#run ? facts(this.#run, history, t) : t("nodeEmpty");
    this.#facts.title = this.#run?.id ?? "";
    this.#actions.show(this.#run);
    this.#draw(history);
    this.#preview(history);
    if ((before === undefined) !== (this.#run === undefined)) resized();
  }

  /** @param {import("./history.mjs").History} history */
  #draw(history) {
    const { steps, losses } = history;
    const across = linear([steps[0] ?? 0, Math.max(steps.at(-1) ?? 1, (steps[0] ?? 0) + 9)], [0, WIDTH]);
    const up = linear(extent([losses]), [HEIGHT - 2, 2]);
    this.#raw.setAttribute("d", path(steps, losses, across, up));
    this.#smooth.setAttribute("d", path(steps, smooth(losses, SMOOTHING), across, up));
  }

  /** @param {import("./history.mjs").History} history */
  #preview(history) {
    const preview = history.previews.at(-1);
    this.#picture.hidden = preview === undefined;
    if (!preview || !this.#run) return;
    const address = this.#place.picture(this.#run.id, preview, 1);
    if (this.#picture.getAttribute("src") !== address) this.#picture.src = address;
    this.#picture.alt = this.#picture.title = this.#place.t("previewOf", { number: 1, step: preview.step });
  }
}

/** @param {Run} run @param {import("./history.mjs").History} history @param {import("./plot.mjs").Translate} t */
function facts(run, history, t) {
  const loss = history.losses.length ? `${t("loss")} ${short(smooth(history.losses, SMOOTHING).at(-1))}` : "";
  const left = timeLeft(history, run.steps);
  const time =
    run.state === "training" ? (Number.isFinite(left) ? t("leftShort", { time: duration(left) }) : "") : t(run.state);
  return [`${run.step}/${run.steps}`, loss, time].filter(Boolean).join(" · ");
}
