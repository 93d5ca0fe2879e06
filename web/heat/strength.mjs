// @ts-check
/** The little window in which a block's strength is set. */
import { element } from "../dom.mjs";

/**
 * @typedef {{block: string, strength: number, nodes: {label: string, value: number}[]}} Question
 * @param {Question} question `nodes`: the KronaWeights nodes to choose from.
 * @param {(key: string, values?: Record<string, string | number>) => string} t
 * @returns {Promise<{strength: number | null, node: number} | null>} Null where the user has thought better of it; a
 *   strength of null where the block's own entry shall go.
 */
export function askStrength(question, t) {
  return new Promise((resolve) => {
    const number = element("input", {
      type: "number",
      step: "0.05",
      value: String(question.strength),
      "aria-label": t("strength", { block: question.block }),
    });
    const slider = element("input", {
      type: "range",
      min: "0",
      max: "2",
      step: "0.05",
      value: String(question.strength),
      "aria-label": t("strength", { block: question.block }),
    });
    slider.addEventListener("input", () => (number.value = slider.value));
    number.addEventListener("input", () => (slider.value = number.value));
    const which = element(
      "select",
      { "aria-label": t("which") },
      ...question.nodes.map((node) => element("option", { value: String(node.value) }, node.label)),
    );
    const form = element(
      "form",
      { method: "dialog" },
      element("h3", {}, t("strength", { block: question.block })),
      element("div", { class: "krona-heat-row" }, slider, number),
      question.nodes.length > 1 && element("label", { class: "krona-heat-row" }, `${t("which")} `, which),
      element(
        "div",
        { class: "krona-heat-row" },
        element("button", { value: "set", class: "krona-primary" }, t("set")),
        element("button", { value: "remove" }, t("remove")),
        element("button", { value: "" }, t("close")),
      ),
    );
    const dialog = element("dialog", { class: "krona-dialog krona-heat-dialog" }, form);
    // The editor has shortcuts on plain keys.
    dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.stopPropagation());
    dialog.addEventListener("close", () => {
      dialog.remove();
      const strength = dialog.returnValue === "remove" ? null : Number(number.value);
      const isGiven =
        dialog.returnValue === "remove" ||
        (dialog.returnValue === "set" && number.value !== "" && Number.isFinite(strength));
      resolve(isGiven ? { strength, node: Number(which.value || question.nodes[0]?.value) } : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    number.select();
  });
}
