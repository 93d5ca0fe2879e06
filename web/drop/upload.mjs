// @ts-check
/** One file to the server. XMLHttpRequest, because `fetch` does not tell how much of a body has gone. */
import { api } from "../host.mjs";

/** The server has refused the file; the message is its own. */
export class UploadFailed extends Error {}

/**
 * @param {File} file
 * @param {{onProgress: (sent: number) => void, signal: AbortSignal}} options
 * @returns {Promise<{name: string, is_new: boolean} | null>} Null where it was cancelled.
 * @throws {UploadFailed} With an empty message where the server did not answer.
 */
export function upload(file, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return resolve(null);
    const request = new XMLHttpRequest();
    request.open("POST", api.apiURL(`/krona/adapters?name=${encodeURIComponent(file.name)}`));
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (api.user) request.setRequestHeader("Comfy-User", api.user);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded));
    request.addEventListener("load", () => settle(request, resolve, reject));
    request.addEventListener("error", () => reject(new UploadFailed("")));
    request.addEventListener("abort", () => resolve(null));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(file);
  });
}

/** @param {XMLHttpRequest} request @param {(value: any) => void} resolve @param {(error: Error) => void} reject */
function settle(request, resolve, reject) {
  let answer = null;
  try {
    answer = JSON.parse(request.responseText);
  } catch {
    // A proxy's page; its status says what is known.
  }
  if (request.status === 200 && typeof answer?.name === "string") resolve(answer);
  else reject(new UploadFailed(answer?.error?.message ?? `${request.status} ${request.statusText}`));
}
