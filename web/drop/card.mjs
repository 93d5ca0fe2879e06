// @ts-check
/** The uploads that go on, in a corner of the page: a bar and a cancel button for each file. */
import { element } from "../dom.mjs";

/** @typedef {(key: string, values?: Record<string, string | number>) => string} Translate */

/**
 * @typedef {object} Row
 * @property {AbortSignal} signal Aborted by the row's button.
 * @property {(sent: number) => void} show
 * @property {() => void} remove
 */

/** @param {File} file @param {Translate} t @returns {Row} */
export function addRow(file, t) {
  const cancelled = new AbortController();
  const label = element("span", { class: "krona-upload-name", title: file.name }, file.name);
  const state = element("span", { class: "krona-upload-state" }, t("waiting"));
  const bar = element("progress", { max: Math.max(file.size, 1), value: 0, "aria-label": file.name });
  const stop = () => cancelled.abort();
  const button = element(
    "button",
    { type: "button", "aria-label": t("cancelOf", { file: file.name }), title: t("cancel"), onclick: stop },
    "✕",
  );
  const row = element("li", { class: "krona-upload" }, label, button, bar, state);
  list(t).append(row);
  return {
    signal: cancelled.signal,
    show(sent) {
      bar.value = sent;
      state.textContent =
        sent < file.size ? t("progress", { done: megabytes(sent), size: megabytes(file.size) }) : t("checking");
    },
    remove() {
      row.remove();
      const place = document.querySelector(".krona-uploads");
      if (!place?.querySelector("li")) place?.remove();
    },
  };
}

/** The list of rows; made with its frame where there is none. @param {Translate} t @returns {HTMLElement} */
function list(t) {
  const there = document.querySelector(".krona-uploads ul");
  if (there) return /** @type {HTMLElement} */ (there);
  const made = element("ul");
  document.body.append(
    element(
      "section",
      { class: "krona-panel krona-uploads", "aria-label": t("uploads") },
      element("h2", {}, t("uploads")),
      made,
    ),
  );
  return made;
}

/** @param {number} bytes */
export function megabytes(bytes) {
  const size = bytes / 1e6;
  return size < 10 ? size.toFixed(1) : size.toFixed(0);
}
