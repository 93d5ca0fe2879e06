// @ts-check
/** A run's previews, with a slider through time. */
import { element } from "../dom.mjs";

/** @typedef {import("./history.mjs").Preview} Preview */

export class Previews {
  /** @type {HTMLElement} */
  element;
  #t;
  #changed;
  #pictures;
  #slider;
  #label;
  #empty;
  /** @type {Preview[]} */
  #previews = [];
  /** @type {number | null} The step that the user has gone to; null follows the newest. */
  #step = null;
  #shown = "";

  /**
   * @param {import("./plot.mjs").Translate} t
   * @param {() => void} changed Called when the user goes to another step.
   */
  constructor(t, changed) {
    this.#t = t;
    this.#changed = changed;
    this.#pictures = element("div", { class: "krona-pictures" });
    this.#slider = element("input", {
      type: "range",
      min: "0",
      step: "1",
      "aria-label": t("time"),
      oninput: () => this.#slide(),
    });
    this.#label = element("output", { class: "krona-time" });
    this.#empty = element("p", { class: "krona-hint" }, t("noPreviews"));
    const time = element("div", { class: "krona-slider" }, this.#slider, this.#label);
    this.element = element(
      "section",
      { class: "krona-previews", "aria-label": t("previews") },
      this.#empty,
      this.#pictures,
      time,
    );
  }

  /** The step whose pictures are shown. */
  get step() {
    return this.#current()?.step ?? null;
  }

  /** @param {number} step */
  goTo(step) {
    this.#step = step === this.#previews.at(-1)?.step ? null : step;
    this.#changed();
  }

  /** Follow the newest again. */
  reset() {
    this.#step = null;
  }

  /**
   * @param {Preview[]} previews
   * @param {(preview: Preview, number: number) => string} address Of a picture; `number` is 1 for the first prompt.
   */
  show(previews, address) {
    this.#previews = previews;
    const current = this.#current();
    this.#empty.hidden = current !== undefined;
    this.#slider.parentElement.hidden = previews.length < 2;
    this.#pictures.hidden = current === undefined;
    if (current === undefined) {
      this.#shown = "";
      this.#pictures.replaceChildren();
      return;
    }
    const isNewest = current === previews.at(-1);
    this.#slider.max = String(previews.length - 1);
    this.#slider.value = String(previews.indexOf(current));
    this.#slider.setAttribute("aria-valuetext", this.#t("at", { step: current.step }));
    this.#label.textContent = this.#t("at", { step: current.step }) + (isNewest ? ` · ${this.#t("latest")}` : "");
    this.#pictures.dataset.step = String(current.step);
    const addresses = Array.from({ length: current.count }, (_, number) => address(current, number + 1));
    if (addresses.join() === this.#shown) return;
    this.#shown = addresses.join();
    this.#draw(current, addresses);
  }

  #current() {
    return this.#previews.find(({ step }) => step === this.#step) ?? this.#previews.at(-1);
  }

  #slide() {
    this.goTo(this.#previews[Number(this.#slider.value)].step);
  }

  /** @param {Preview} current @param {string[]} addresses */
  #draw(current, addresses) {
    while (this.#pictures.children.length > addresses.length) this.#pictures.lastElementChild?.remove();
    addresses.forEach((address, number) => {
      const name = this.#t("previewOf", { number: number + 1, step: current.step });
      const link = this.#pictures.children[number] ?? this.#pictures.appendChild(picture());
      link.href = address;
      link.title = name;
      // The old picture stays until the new one is there: sliding must not flicker.
      link.firstElementChild.src = address;
      link.firstElementChild.alt = name;
    });
  }
}

function picture() {
  return element("a", { target: "_blank", rel: "noopener" }, element("img", { draggable: false, decoding: "async" }));
}
