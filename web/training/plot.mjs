// @ts-check
/**
 * The chart of one run, or of two: loss, validation, learning rate, and a crosshair for the mouse and the arrow keys.
 */
import { element, svg } from "../dom.mjs";
import { extent, linear, logarithmic, nearest, path } from "./chart.mjs";
import { clock, exponent, NONE, short } from "./format.mjs";
import { smooth } from "./history.mjs";

/**
 * @typedef {import("./history.mjs").History} History
 * @typedef {import("./chart.mjs").Scale} Scale
 * @typedef {{name: string, history: History}} Series
 * @typedef {object} View
 * @property {Series[]} series The first is the one that the crosshair follows; at most two.
 * @property {number} smoothing
 * @property {boolean} isLogarithmic
 * @property {number | null} preview The step whose previews are shown beside the chart.
 *
 * @typedef {(key: string, values?: Record<string, string | number>) => string} Translate
 */

const LEFT = 52;
const RIGHT = 10;
const TOP = 10;
const AXIS = 18;
const RATE = 26;
const GAP = 8;
const ROOM_FOR_RATE = 150;

export class Plot {
  /** @type {HTMLElement} */
  element;
  #t;
  #choose;
  /** @type {View} */
  #view = { series: [], smoothing: 0, isLogarithmic: false, preview: null };
  /** @type {Float64Array[]} */
  #smoothed = [];
  /** @type {number | null} The step at which the crosshair stands. */
  #step = null;
  #width = 0;
  #height = 0;
  /** @type {{across: Scale, up: Scale, bottom: number} | null} */
  #frame = null;
  #parts;
  #observer;

  /**
   * @param {Translate} t
   * @param {(step: number) => void} choose Called with the step of the preview nearest to a click.
   */
  constructor(t, choose) {
    this.#t = t;
    this.#choose = choose;
    this.#parts = parts();
    this.element = element(
      "div",
      {
        class: "krona-plot",
        role: "slider",
        tabIndex: 0,
        "aria-orientation": "horizontal",
        "data-points": 0,
        onpointermove: (/** @type {PointerEvent} */ event) => this.#point(event),
        onpointerleave: () => this.#stand(null),
        onblur: () => this.#stand(null),
        onclick: (/** @type {PointerEvent} */ event) => this.#click(event),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.#press(event),
      },
      this.#parts.drawing,
      this.#parts.readout,
    );
    this.#observer = new ResizeObserver(([entry]) => this.#resize(entry.contentRect.width, entry.contentRect.height));
    this.#observer.observe(this.element);
  }

  /** Stop looking at the element's size. */
  end() {
    this.#observer.disconnect();
  }

  /** @param {View} view */
  show(view) {
    this.#view = view;
    this.#smoothed = view.series.map(({ history }) => smooth(history.losses, view.smoothing));
    this.element.dataset.points = String(view.series[0]?.history.steps.length ?? 0);
    this.element.dataset.compared = view.series[1] ? String(view.series[1].history.steps.length) : "";
    this.#draw();
  }

  /** @param {number} width @param {number} height */
  #resize(width, height) {
    if (width === this.#width && height === this.#height) return;
    this.#width = width;
    this.#height = height;
    this.#draw();
  }

  #draw() {
    const { drawing } = this.#parts;
    // Hidden panels have no size: nothing is drawn until they are seen again.
    if (this.#width < LEFT + RIGHT + 20 || this.#height < 60) return;
    drawing.setAttribute("viewBox", `0 0 ${this.#width} ${this.#height}`);
    const hasRate = this.#height >= ROOM_FOR_RATE;
    const bottom = this.#height - AXIS - (hasRate ? RATE + GAP : 0);
    const across = linear(stepsOf(this.#view.series), [LEFT, this.#width - RIGHT]);
    const up = this.#up(bottom);
    this.#frame = { across, up, bottom };
    this.#axes(across, up, bottom);
    this.#lines(across, up);
    this.#rates(across, hasRate);
    this.#previews(across, bottom);
    this.#crosshair();
  }

  /** @param {number} bottom @returns {Scale} */
  #up(bottom) {
    const { series, isLogarithmic } = this.#view;
    const lists = series.flatMap(({ history }) => [
      history.losses,
      history.validations.map((each) => each.loss),
      othersOf(history),
    ]);
    const domain = extent(lists, isLogarithmic);
    return (isLogarithmic ? logarithmic : linear)(domain, [bottom, TOP]);
  }

  /** @param {Scale} across @param {Scale} up @param {number} bottom */
  #axes(across, up, bottom) {
    const made = [];
    for (const value of up.ticks(Math.max(2, Math.floor((bottom - TOP) / 28)))) {
      const y = up.map(value);
      made.push(svg("line", { class: "krona-grid", x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y }));
      made.push(svg("text", { class: "krona-tick", x: LEFT - 7, y: y + 3.5, "text-anchor": "end" }, exponent(value)));
    }
    const steps = across
      .ticks(Math.max(2, Math.floor((this.#width - LEFT) / 80)))
      .filter((each) => Number.isInteger(each) && each > 0);
    for (const value of steps) {
      const x = across.map(value);
      made.push(svg("line", { class: "krona-grid", x1: x, x2: x, y1: TOP, y2: bottom }));
      const anchor = x > this.#width - RIGHT - 14 ? "end" : "middle"; // the last one must not be cut off
      const at = anchor === "end" ? this.#width - 2 : x;
      made.push(svg("text", { class: "krona-tick", x: at, y: this.#height - 4, "text-anchor": anchor }, String(value)));
    }
    this.#parts.axes.replaceChildren(...made);
  }

  /** @param {Scale} across @param {Scale} up */
  #lines(across, up) {
    this.#parts.series.forEach((part, number) => {
      const history = this.#view.series[number]?.history;
      part.group.style.display = history ? "" : "none";
      if (!history) return;
      part.raw.setAttribute("d", path(history.steps, history.losses, across, up));
      part.smooth.setAttribute("d", path(history.steps, this.#smoothed[number], across, up));
      part.other.setAttribute("d", path(history.steps, othersOf(history), across, up));
      const steps = history.validations.map((each) => each.step);
      const losses = history.validations.map((each) => each.loss);
      part.validation.setAttribute("d", path(steps, losses, across, up));
      const dots = history.validations
        .filter((each) => Number.isFinite(up.map(each.loss)))
        .map((each) => svg("circle", { cx: across.map(each.step), cy: up.map(each.loss), r: each.isBest ? 3 : 2 }));
      part.dots.replaceChildren(...(dots.length <= this.#width / 8 ? dots : []));
    });
  }

  /** The learning rate, in a strip of its own. @param {Scale} across @param {boolean} hasRate */
  #rates(across, hasRate) {
    const { rates, rateLabel, series } = this.#parts;
    rates.style.display = hasRate ? "" : "none";
    if (!hasRate) return;
    const top = this.#height - AXIS - RATE;
    const [, high] = extent(this.#view.series.map(({ history }) => history.rates));
    const up = linear([0, high || 1], [top + RATE, top + 2]);
    this.#view.series.forEach(({ history }, number) => {
      series[number].rate.setAttribute("d", path(history.steps, history.rates, across, up));
    });
    if (!this.#view.series[1]) series[1].rate.setAttribute("d", "");
    rateLabel.setAttribute("y", String(top + RATE / 2 + 4));
    this.#parts.rateGround.setAttribute("x", String(LEFT));
    this.#parts.rateGround.setAttribute("y", String(top));
    this.#parts.rateGround.setAttribute("width", String(Math.max(0, this.#width - LEFT - RIGHT)));
    this.#parts.rateGround.setAttribute("height", String(RATE));
  }

  /** Where previews were drawn. @param {Scale} across @param {number} bottom */
  #previews(across, bottom) {
    const previews = this.#view.series[0]?.history.previews ?? [];
    const [low, high] = across.domain;
    const seen = previews.filter(({ step }) => step >= low && step <= high);
    const marks = seen.map(({ step }) => {
      const x = across.map(step);
      const isShown = step === this.#view.preview;
      return svg("path", {
        class: isShown ? "krona-mark krona-shown" : "krona-mark",
        d: `M${x} ${bottom - 7}l4 7h-8z`,
      });
    });
    this.#parts.marks.replaceChildren(...(marks.length <= this.#width / 6 ? marks : marks.slice(-1)));
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const history = this.#view.series[0]?.history;
    if (!this.#frame || !history?.steps.length) return;
    const box = this.element.getBoundingClientRect();
    // On a canvas that is zoomed the element is drawn larger than it is.
    const x = ((event.clientX - box.left) / box.width) * this.#width;
    this.#stand(history.steps[nearest(history.steps, this.#frame.across.invert(x))]);
  }

  /** @param {PointerEvent} event */
  #click(event) {
    this.#point(event);
    const steps = (this.#view.series[0]?.history.previews ?? []).map(({ step }) => step);
    if (this.#step !== null && steps.length) this.#choose(steps[nearest(steps, this.#step)]);
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const steps = this.#view.series[0]?.history.steps ?? [];
    if (event.ctrlKey || event.altKey || event.metaKey || !steps.length) return;
    const last = steps.length - 1;
    const at = this.#step === null ? null : nearest(steps, this.#step);
    const far = Math.max(1, Math.round(steps.length / 20));
    /** @type {Record<string, number>} */
    const moves = {
      ArrowLeft: at === null ? last : at - 1,
      ArrowDown: at === null ? last : at - 1,
      ArrowRight: at === null ? 0 : at + 1,
      ArrowUp: at === null ? 0 : at + 1,
      PageUp: (at ?? 0) + far,
      PageDown: (at ?? last) - far,
      Home: 0,
      End: last,
    };
    if (event.key === "Escape" && this.#step !== null) this.#stand(null);
    else if (Object.hasOwn(moves, event.key)) this.#stand(steps[Math.min(last, Math.max(0, moves[event.key]))]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number | null} step */
  #stand(step) {
    this.#step = step;
    this.#crosshair();
  }

  #crosshair() {
    const { cross, line, readout, series } = this.#parts;
    const first = this.#view.series[0];
    this.#tell(first);
    const isSeen = this.#frame !== null && first !== undefined && this.#step !== null;
    cross.style.display = isSeen ? "" : "none";
    readout.hidden = !isSeen;
    if (!this.#frame || !first || this.#step === null) return;
    const { across, up } = this.#frame;
    const x = across.map(this.#step);
    line.setAttribute("d", `M${x.toFixed(1)} ${TOP}V${this.#height - AXIS}`);
    series.forEach((part, number) => {
      const shown = this.#view.series[number];
      const at = shown ? indexAt(shown.history, this.#step ?? 0) : -1;
      const y = at < 0 ? NaN : up.map(this.#smoothed[number][at]);
      part.point.style.display = Number.isFinite(y) ? "" : "none";
      if (!Number.isFinite(y)) return;
      part.point.setAttribute("cx", String(across.map(shown.history.steps[at])));
      part.point.setAttribute("cy", String(y));
    });
    readout.replaceChildren(...this.#rows(this.#step));
    const isRight = x > (this.#width + LEFT) / 2;
    readout.style.left = isRight ? "auto" : `${x + 12}px`;
    readout.style.right = isRight ? `${this.#width - x + 12}px` : "auto";
  }

  /** What a screen reader says. @param {Series | undefined} first */
  #tell(first) {
    const steps = first?.history.steps ?? [];
    const at = first ? (this.#step === null ? steps.length - 1 : indexAt(first.history, this.#step)) : -1;
    this.element.setAttribute("aria-label", this.#t("chart", { run: first?.name ?? "" }));
    this.element.setAttribute("aria-valuemin", String(steps[0] ?? 0));
    this.element.setAttribute("aria-valuemax", String(steps.at(-1) ?? 0));
    this.element.setAttribute("aria-valuenow", String(steps[at] ?? 0));
    const loss = first && at >= 0 ? `, ${this.#t("loss")} ${short(first.history.losses[at])}` : "";
    this.element.setAttribute("aria-valuetext", `${this.#t("at", { step: steps[at] ?? 0 })}${loss}`);
  }

  /** @param {number} step @returns {HTMLElement[]} */
  #rows(step) {
    const made = [element("b", {}, this.#t("at", { step }))];
    this.#view.series.forEach(({ name, history }, number) => {
      const at = indexAt(history, step);
      if (at < 0) return;
      const validation = history.validations.filter((each) => each.step <= step).at(-1);
      const facts = [
        [this.#t("smoothed"), short(this.#smoothed[number][at])],
        [this.#t("loss"), short(history.losses[at])],
        ...Object.entries(history.others[at]).map(([name, loss]) => [this.#t("lossOf", { name }), short(loss)]),
        [this.#t("validation"), validation ? short(validation.loss) : NONE],
        // Two runs have no room for all of it.
        ...(this.#view.series.length > 1 ? [] : [[this.#t("rate"), exponent(history.rates[at])]]),
        [this.#t("took"), clock(history.elapsed[at])],
      ].filter(([, value]) => value !== NONE);
      if (this.#view.series.length > 1)
        made.push(element("span", { class: `krona-name krona-series-${number}` }, name));
      made.push(
        element("dl", {}, ...facts.flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)])),
      );
    });
    return made;
  }
}

/**
 * The index of the step nearest to one; -1 where the run never came near it.
 * @param {History} history
 * @param {number} step
 */
function indexAt(history, step) {
  const last = history.steps.at(-1);
  return last === undefined || step > last ? -1 : nearest(history.steps, step);
}

/** The loss of the first adapter besides, at each step; NaN where there is none. @param {History} history */
function othersOf(history) {
  return history.others.map((each) => Object.values(each)[0] ?? NaN);
}

/** @param {Series[]} series @returns {[number, number]} */
function stepsOf(series) {
  const first = Math.min(...series.map(({ history }) => history.steps[0] ?? 1), 1);
  const last = Math.max(...series.map(({ history }) => history.steps.at(-1) ?? 0));
  return [first, Math.max(last, first + 9)];
}

function parts() {
  const series = [0, 1].map((number) => {
    const raw = svg("path", { class: "krona-raw" });
    const smooth = svg("path", { class: "krona-smooth" });
    const validation = svg("path", { class: "krona-validation" });
    const other = svg("path", { class: "krona-other" });
    const dots = svg("g", { class: "krona-dots" });
    const rate = svg("path", { class: `krona-rate krona-series-${number}` });
    const point = svg("circle", { class: `krona-point krona-series-${number}`, r: 3.5 });
    const group = svg("g", { class: `krona-series krona-series-${number}` }, raw, other, validation, dots, smooth);
    return { group, raw, smooth, other, validation, dots, rate, point };
  });
  const axes = svg("g");
  const rateGround = svg("rect", { class: "krona-rate-ground", rx: 2 });
  const rateLabel = svg("text", { class: "krona-tick", x: LEFT - 7, "text-anchor": "end" }, "lr");
  const rates = svg("g", {}, rateGround, rateLabel, ...series.map((part) => part.rate));
  const marks = svg("g");
  const line = svg("path", { class: "krona-crosshair" });
  const cross = svg("g", {}, line, ...series.map((part) => part.point));
  // The second run lies under the first.
  const lines = [...series].reverse().map((part) => part.group);
  const drawing = svg("svg", { "aria-hidden": "true" }, axes, rates, marks, ...lines, cross);
  const readout = element("div", { class: "krona-readout", hidden: true });
  return { drawing, axes, series, rates, rateGround, rateLabel, marks, cross, line, readout };
}
