// @ts-check
/** The question about a file that carries the workflow of its training. */
import { element } from "../dom.mjs";

/**
 * @param {string} file
 * @param {(key: string, values?: Record<string, string | number>) => string} t
 * @returns {Promise<"load" | "open" | null>} Null where the user closes it.
 */
export function askWhatToDo(file, t) {
  return new Promise((resolve) => {
    const heading = element("h3", { id: "krona-question" }, t("question", { file }));
    const form = element(
      "form",
      { method: "dialog" },
      heading,
      element("p", {}, t("questionHint")),
      element(
        "div",
        { class: "krona-choices" },
        element("button", { value: "load", class: "krona-primary", autofocus: true }, t("load")),
        element("button", { value: "open" }, t("open")),
        element("button", { value: "" }, t("cancel")),
      ),
    );
    const dialog = element("dialog", { class: "krona-dialog krona-question", "aria-labelledby": heading.id }, form);
    // The editor has shortcuts on plain keys.
    dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.stopPropagation());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "load" || dialog.returnValue === "open" ? dialog.returnValue : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
