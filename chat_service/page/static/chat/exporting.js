// Exports as files: the key is sent in a header, so that no link could do it.

import { element } from "./elements.js";

/** Makes the buttons in `place` (with data-format) save the chat that `chatId()` names; `onError` gets what went wrong. */
export function connectExports(place, api, chatId, onError) {
  for (const button of place.querySelectorAll("button[data-format]")) {
    button.onclick = async () => {
      button.disabled = true;
      try {
        save(await api.export(chatId(), button.dataset.format));
        onError(null);
      } catch (problem) {
        onError(problem);
      } finally {
        button.disabled = false;
        button.focus();
      }
    };
  }
}

function save({ blob, name }) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the download may have to be confirmed first
}
