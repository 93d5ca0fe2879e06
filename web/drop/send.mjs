// @ts-check
/** Files to the server, one after the other, with a row in the corner for each. */
import { app, locale, toast } from "../host.mjs";
import { translator } from "../texts.mjs";
import { addRow, megabytes } from "./card.mjs";
import { TEXTS } from "./texts.mjs";
import { upload, UploadFailed } from "./upload.mjs";

const t = translator(TEXTS, locale);

export const SETTING = "KronA.Uploads.LargestFile";
/** Megabytes. */
export const LARGEST = 4096;

/**
 * @param {File[]} files Known to be adapters.
 * @returns {Promise<(string | null)[]>} Their names in the loaders' menus, which know them by now; null for what was
 *   cancelled or refused.
 */
export async function sendAll(files) {
  const queue = files.map((file) => ({ file, row: isAllowed(file) ? addRow(file, t) : null }));
  const names = [];
  let isAnyNew = false;
  for (const { file, row } of queue) {
    const answer = row && (await send(file, row));
    names.push(answer ? answer.name : null);
    isAnyNew ||= answer?.is_new ?? false;
  }
  if (isAnyNew) await app.refreshComboInNodes();
  return names;
}

/**
 * Whether it may be as large as it is; the server asks the same, but only once all of it might have been sent.
 * @param {File} file
 */
function isAllowed(file) {
  const most = Number(app.extensionManager.setting.get(SETTING) ?? LARGEST);
  if (file.size <= most * 1e6) return true;
  toast("error", t("tooLarge", { file: file.name, size: megabytes(file.size), most }));
  return false;
}

/** @param {File} file @param {import("./card.mjs").Row} row */
async function send(file, row) {
  try {
    const answer = await upload(file, { onProgress: row.show, signal: row.signal });
    if (answer && !answer.is_new && answer.name !== file.name)
      toast("info", t("reused", { file: file.name, name: answer.name }));
    return answer;
  } catch (error) {
    if (!(error instanceof UploadFailed)) throw error;
    toast("error", t("failed", { file: file.name, reason: error.message || t("connection") }));
    return null;
  } finally {
    row.remove();
  }
}
