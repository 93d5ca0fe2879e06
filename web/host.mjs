// @ts-check
/**
 * The one place that knows ComfyUI's own modules. Modules that do not import this one run under plain `node --test`.
 */
// @ts-ignore: served by ComfyUI
import { api } from "/scripts/api.js";
// @ts-ignore: served by ComfyUI
import { app } from "/scripts/app.js";

export { api, app };

/** The pack's web folder, whatever the pack's folder is called. */
export const WEB = new URL(".", import.meta.url);

/**
 * Show a message in a corner of the page.
 * @param {"success" | "info" | "warn" | "error"} severity
 * @param {string} detail
 */
export function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "KronA", detail, life: severity === "error" ? 15000 : 6000 });
}

/** The language that the user has chosen in ComfyUI, such as `en`, `zh`, `zh-TW`, `ja`. */
export function locale() {
  return String(app.extensionManager.setting.get("Comfy.Locale") ?? "en");
}

/**
 * Ask one of the pack's routes (docs/api.md).
 * @param {string} route Without the leading `/krona`.
 * @param {RequestInit} [options]
 * @returns {Promise<any>} The JSON of the answer.
 * @throws {Error} With the server's own message.
 */
export async function ask(route, options) {
  const response = await api.fetchApi(`/krona${route}`, options);
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    throw new Error(body?.error?.message ?? `${response.status} ${response.statusText}`);
  }
  return body;
}
