// @ts-check
/** The heat map as a table that can be read, pointed at and walked through with the arrow keys. */
import { element } from "../dom.mjs";
import { brief, cellColours, scale, short } from "./colours.mjs";

/**
 * @typedef {{name: string, block: string, role: string, form: string, parameters: number, norm: number | null,
 *   rms: number | null, effective_rank: number | null}} LayerFacts
 * @typedef {{title: string, subtitle: string, measure: string, blocks: string[], roles: string[],
 *   values: (number | null)[][], of_blocks: number[], of_roles: number[], selectors: string[],
 *   layers: LayerFacts[]}} Grid As the server's `krona_grid`.
 * @typedef {(key: string, values?: Record<string, string | number>) => string} Translate
 */

const NAMED = 6;
/** Layers that the readout names; a block of SDXL has forty. */

/**
 * @param {Grid} grid
 * @param {{t: Translate, isDark: boolean, strength: (selector: string) => number | null,
 *   choose: (row: number, at: HTMLElement) => void}} options
 *   `strength`: what is set for a block now; `choose`: the user has clicked a block.
 * @returns {HTMLElement}
 */
export function heatTable(grid, options) {
  const { t } = options;
  const readout = element("p", { class: "krona-heat-readout", "aria-live": "polite" }, t("how"));
  const tell = (/** @type {number} */ row, /** @type {number | null} */ column) => () =>
    readout.replaceChildren(...describe(grid, row, column, t));
  const part = scale(grid.values.flat());
  const rows = grid.blocks.map((block, row) => {
    const set = options.strength(grid.selectors[row]);
    const label = element(
      "button",
      {
        type: "button",
        class: "krona-heat-block",
        title: block,
        onclick: (/** @type {any} */ event) => options.choose(row, event.currentTarget),
        onmouseenter: tell(row, null),
        onfocus: tell(row, null),
      },
      block,
      set === null ? null : element("span", { class: "krona-heat-strength" }, `×${set}`),
    );
    const cells = grid.values[row].map((value, column) =>
      cell(value, part, options.isDark, () => options.choose(row, label), tell(row, column)),
    );
    return element("tr", {}, element("th", { scope: "row" }, label), ...cells);
  });
  const head = element(
    "tr",
    {},
    element("td"),
    ...grid.roles.map((role) => element("th", { scope: "col" }, element("span", {}, role))),
  );
  const table = element(
    "table",
    { "aria-label": `${grid.title}: ${grid.measure}`, onkeydown: walk },
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
  return element(
    "div",
    { class: "krona-heat" },
    element("p", { class: "krona-heat-title" }, element("b", {}, grid.title), ` ${grid.subtitle}`),
    element("div", { class: "krona-heat-scroll" }, table),
    readout,
  );
}

/**
 * @param {number | null} value
 * @param {(value: number) => number} part
 * @param {boolean} isDark
 * @param {() => void} choose
 * @param {() => void} tell
 */
function cell(value, part, isDark, choose, tell) {
  if (value === null) return element("td", { class: "krona-heat-none" });
  const { ground, ink } = cellColours(part(value), isDark);
  return element(
    "td",
    { style: { background: ground, color: ink }, onclick: choose, onmouseenter: tell },
    brief(value),
  );
}

/** Up and down go from block to block. @param {KeyboardEvent} event */
function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const table = /** @type {HTMLElement} */ (event.currentTarget);
  const blocks = [...table.querySelectorAll("button")];
  const at = blocks.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
  if (!step || at < 0) return;
  event.preventDefault();
  event.stopPropagation();
  blocks[Math.min(blocks.length - 1, Math.max(0, at + step))].focus();
}

/**
 * What the readout says of a cell, or of a whole block.
 * @param {Grid} grid @param {number} row @param {number | null} column @param {Translate} t
 */
function describe(grid, row, column, t) {
  const block = grid.blocks[row];
  const role = column === null ? null : grid.roles[column];
  const value = column === null ? grid.of_blocks[row] : grid.values[row][column];
  const layers = grid.layers.filter((layer) => layer.block === block && (role === null || layer.role === role));
  const title = role === null ? t("block", { block }) : t("cell", { block, role });
  const lines = layers.slice(0, NAMED).map((layer) => element("span", {}, line(layer)));
  const rest = layers.length - lines.length;
  return [
    element("b", {}, `${title}: ${short(value)}`),
    element("span", {}, t("layers", { count: layers.length })),
    ...lines,
    ...(rest > 0 ? [element("span", {}, t("more", { count: rest }))] : []),
  ];
}

/** @param {LayerFacts} layer */
function line(layer) {
  const rank = layer.effective_rank === null ? "" : `, eff. rank ${short(layer.effective_rank)}`;
  return `${layer.name} — ${layer.form}, ‖ΔW‖ ${short(layer.norm)}, rms ${short(layer.rms)}${rank}`;
}
