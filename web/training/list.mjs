// @ts-check
/** The runs, the newest first. */
import { element } from "../dom.mjs";
import { short } from "./format.mjs";

/**
 * @typedef {import("./live.mjs").Run} Run
 * @typedef {{select: (id: string) => void, compare: (id: string | null) => void}} Chosen
 */

export class List {
  /** @type {HTMLElement} */
  element;
  #t;
  #chosen;
  #rows;
  /** @type {Map<string, Item>} */
  #items = new Map();

  /** @param {import("./plot.mjs").Translate} t @param {Chosen} chosen */
  constructor(t, chosen) {
    this.#t = t;
    this.#chosen = chosen;
    this.#rows = element("ul", { onkeydown: (/** @type {KeyboardEvent} */ event) => move(event, this.#rows) });
    this.element = element("nav", { class: "krona-runs", "aria-label": t("runs") }, this.#rows);
  }

  /** @param {Run[]} runs @param {string | null} selected @param {string | null} compared */
  show(runs, selected, compared) {
    const ids = new Set(runs.map((run) => run.id));
    for (const [id, item] of this.#items) {
      if (ids.has(id)) continue;
      item.row.remove();
      this.#items.delete(id);
    }
    runs.forEach((run, place) => {
      const item = this.#items.get(run.id) ?? this.#add(run.id);
      // Only what has moved: a row that is taken out and put back loses the focus.
      if (this.#rows.children[place] !== item.row)
        this.#rows.insertBefore(item.row, this.#rows.children[place] ?? null);
      item.show(run, run.id === selected, run.id === compared);
    });
  }

  /** @param {string} id */
  #add(id) {
    const item = new Item(id, this.#t, this.#chosen);
    this.#items.set(id, item);
    return item;
  }
}

class Item {
  /** @type {HTMLElement} */
  row;
  #t;
  #button;
  #facts;
  #dot;
  #compare;
  #isCompared = false;

  /** @param {string} id @param {import("./plot.mjs").Translate} t @param {Chosen} chosen */
  constructor(id, t, chosen) {
    this.#t = t;
    this.#dot = element("i", { class: "krona-dot" });
    this.#facts = element("span", { class: "krona-run-facts" });
    const name = element("span", { class: "krona-run-name", title: id }, id);
    const onclick = () => chosen.select(id);
    this.#button = element("button", { type: "button", class: "krona-run", onclick }, this.#dot, name, this.#facts);
    this.#compare = element("button", {
      type: "button",
      class: "krona-compare",
      onclick: () => chosen.compare(this.#isCompared ? null : id),
    });
    this.row = element("li", { "data-run": id }, this.#button, this.#compare);
  }

  /** @param {Run} run @param {boolean} isSelected @param {boolean} isCompared */
  show(run, isSelected, isCompared) {
    const t = this.#t;
    this.#isCompared = isCompared;
    this.row.className = isSelected ? "krona-selected" : isCompared ? "krona-compared" : "";
    this.row.dataset.state = run.state;
    this.#dot.dataset.state = run.state;
    const loss = run.loss === null ? "" : ` · ${short(run.loss)}`;
    const steps = run.step === run.steps ? `${run.step}` : `${run.step}/${run.steps}`;
    const text = `${t(run.state)} · ${steps}${loss}`;
    if (this.#facts.textContent !== text) this.#facts.textContent = text;
    if (isSelected) this.#button.setAttribute("aria-current", "true");
    else this.#button.removeAttribute("aria-current");
    this.#compare.hidden = isSelected;
    this.#compare.textContent = isCompared ? "✓" : "+";
    this.#compare.title = t(isCompared ? "stopComparing" : "compareWith", { run: run.id });
    this.#compare.setAttribute("aria-label", this.#compare.title);
    this.#compare.setAttribute("aria-pressed", String(isCompared));
  }
}

/** The arrow keys go from run to run. @param {KeyboardEvent} event @param {HTMLElement} rows */
function move(event, rows) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (by === undefined) return;
  const buttons = /** @type {HTMLElement[]} */ ([...rows.querySelectorAll(".krona-run")]);
  const at = buttons.findIndex((button) => button.parentElement?.contains(document.activeElement));
  buttons[Math.min(buttons.length - 1, Math.max(0, at + by))]?.focus();
  event.preventDefault();
}
