// Exports as files. The key is sent in a header, which a link could not do.

import { element } from "./elements.js";

/**
 * Makes the buttons in `place` (with data-format) save the chat with the id `chatId()`; `onError` gets the error,
 * `onSaved` the saved file.
 */
export function connectExports(place, api, chatId, onError, onSaved = () => {}) {
  for (const button of place.querySelectorAll("button[data-format]")) {
    button.onclick = async () => {
      button.disabled = true;
      try {
        const file = await api.export(chatId(), button.dataset.format);
        save(file);
        onError(null);
        await onSaved(file);
      } catch (problem) {
        onError(problem);
      } finally {
        button.disabled = false;
        button.focus();
      }
    };
  }
}

/** Returns the SHA-256 of a file, or null if the page came by plain http, where the browser does not offer it. */
export async function sha256(blob) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function save({ blob, name }) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the user may have to confirm the download first
}
