// @ts-check
/**
 * Text to the clipboard, also where the page came by plain HTTP from another machine and the browser offers no
 * clipboard.
 */
import { element } from "../dom.mjs";

/** @param {string} text @returns {Promise<boolean>} Whether it is there now. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyFromField(text);
  }
}

/** @param {string} text */
function copyFromField(text) {
  const field = element("textarea", { readOnly: true, value: text, style: { position: "fixed", left: "-9999px" } });
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  return isCopied;
}
