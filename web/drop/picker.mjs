// @ts-check
/** The system's own window for choosing files. */
import { element } from "../dom.mjs";

/**
 * @param {{isMultiple: boolean}} options
 * @returns {Promise<File[]>} Empty where it was closed.
 */
export function chooseFiles({ isMultiple }) {
  return new Promise((resolve) => {
    const input = element("input", { type: "file", accept: ".safetensors,.sft", multiple: isMultiple, hidden: true });
    const done = () => {
      input.remove();
      resolve([...(input.files ?? [])]);
    };
    input.addEventListener("change", done);
    input.addEventListener("cancel", done);
    document.body.append(input); // so that it can be found, and is not collected while the window is open
    input.click();
  });
}
