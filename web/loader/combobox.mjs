// @ts-check
/**
 * A field that finds one of many names: the combobox pattern of the ARIA practices, with a list that opens over
 * everything.
 */
import { element } from "../dom.mjs";
import { find } from "./search.mjs";

const MOST_SHOWN = 60;
let count = 0;

/**
 * @param {{names: () => string[], current: () => string, choose: (name: string) => void,
 *   t: (key: string, values?: Record<string, string | number>) => string}} options
 * @returns {HTMLInputElement}
 */
export function combobox({ names, current, choose, t }) {
  const id = `krona-found-${++count}`;
  const list = element("ul", {
    class: "krona-card krona-found",
    role: "listbox",
    id,
    popover: "manual",
    "aria-label": t("found"),
  });
  const input = element("input", {
    ...{ type: "text", class: "krona-search", placeholder: t("search"), autocomplete: "off", spellcheck: false },
    ...{
      role: "combobox",
      "aria-label": t("searchLabel"),
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": id,
    },
  });
  /** @type {string[]} */
  let matches = [];
  let active = -1;

  function open() {
    matches = find(names(), input.value);
    active = input.value.trim() ? Math.min(0, matches.length - 1) : matches.indexOf(current());
    if (active >= MOST_SHOWN) active = -1;
    const options = matches.slice(0, MOST_SHOWN).map((name, at) => option(name, at));
    const rest = matches.length > MOST_SHOWN && t("more", { count: matches.length - MOST_SHOWN });
    const note = matches.length ? rest : t("nothing");
    list.replaceChildren(
      ...options,
      ...(note ? [element("li", { class: "krona-found-note", role: "presentation" }, note)] : []),
    );
    if (!list.isConnected) document.body.append(list);
    if (!list.matches(":popover-open")) list.showPopover();
    place();
    input.setAttribute("aria-expanded", "true");
    mark();
  }

  function close() {
    list.remove(); // which takes it out of the top layer too
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  const isOpen = () => input.getAttribute("aria-expanded") === "true";

  /** @param {string} name @param {number} at */
  function option(name, at) {
    const made = element("li", { role: "option", id: `${id}-${at}`, "aria-selected": "false", title: name }, name);
    // The field keeps the focus.
    made.addEventListener("pointerdown", (/** @type {Event} */ event) => event.preventDefault());
    made.addEventListener("click", () => take(at));
    return made;
  }

  /** Below the field, or above it where there is more room. */
  function place() {
    const box = input.getBoundingClientRect();
    const isBelow = window.innerHeight - box.bottom > Math.min(260, box.top);
    const left = Math.max(4, Math.min(box.left, window.innerWidth - list.offsetWidth - 4));
    list.style.left = `${left}px`;
    list.style.minWidth = `${Math.max(box.width, 240)}px`;
    list.style.top = isBelow ? `${box.bottom + 2}px` : "auto";
    list.style.bottom = isBelow ? "auto" : `${window.innerHeight - box.top + 2}px`;
  }

  function mark() {
    for (const [at, node] of [...list.querySelectorAll("[role=option]")].entries())
      node.setAttribute("aria-selected", String(at === active));
    const marked = list.querySelector("[aria-selected=true]");
    marked?.scrollIntoView({ block: "nearest" });
    if (marked) input.setAttribute("aria-activedescendant", marked.id);
    else input.removeAttribute("aria-activedescendant");
  }

  /** @param {number} step */
  function move(step) {
    const shown = Math.min(matches.length, MOST_SHOWN);
    if (shown) active = (active + step + shown + (active < 0 && step < 0 ? 1 : 0)) % shown;
    mark();
  }

  /** @param {number} at */
  function take(at) {
    const name = matches[at];
    input.value = "";
    close();
    if (name !== undefined) choose(name);
  }

  /** What each key does; a key that is not here writes, or is the browser's. @type {Record<string, () => void>} */
  const keys = {
    ArrowDown: () => (isOpen() ? move(1) : open()),
    ArrowUp: () => (isOpen() ? move(-1) : open()),
    Enter: () => (isOpen() ? take(active) : open()),
    Escape: () => {
      if (isOpen()) close();
      else if (input.value) input.value = "";
      else input.blur();
    },
  };
  input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.isComposing) return;
    event.stopPropagation(); // letters are shortcuts of the editor
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  input.addEventListener("input", open);
  input.addEventListener("click", open);
  input.addEventListener("blur", close);
  // The field goes along with the canvas and the list does not.
  input.addEventListener("focus", () => window.addEventListener("wheel", onWheel, { capture: true, passive: true }));
  input.addEventListener("blur", () => window.removeEventListener("wheel", onWheel, { capture: true }));

  /** @param {WheelEvent} event */
  function onWheel(event) {
    if (!list.contains(/** @type {Node} */ (event.target))) close();
  }

  return input;
}
