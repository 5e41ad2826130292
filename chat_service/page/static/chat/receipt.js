// The receipt of a deleted chat, with the progress of the removal of its messages.

import { element } from "./elements.js";
import { count, momentOf } from "./words.js";

const LOOK_AGAIN = 1_000; // ms, while messages are still being removed

/** Shows the receipt in `place`, and updates it while it is on the page; returns it, or null if there is none. */
export async function showReceipt(api, chatId, place) {
  const token = (place.dataset.receipt = chatId);
  let receipt;
  try {
    receipt = await api.receipt(chatId);
  } catch (problem) {
    place.replaceChildren();
    if (problem.status !== 404) place.append(element("p", { textContent: "The receipt could not be loaded. Try again later." }));
    return null;
  }
  if (place.dataset.receipt !== token) return receipt;
  place.replaceChildren(draw(receipt));
  if (receipt.purge.state === "running" && place.checkVisibility()) {
    setTimeout(() => place.checkVisibility() && showReceipt(api, chatId, place), LOOK_AGAIN);
  }
  return receipt;
}

function draw({ chat_id, deleted_at, message_count, purge, requested_by, export_sha256 }) {
  const state =
    purge.state === "complete"
      ? "all removed"
      : `${count(purge.deleted, "message")} removed, ${count(purge.remaining, "message")} still to remove; nobody can read them`;
  const rows = [
    ["Deleted", momentOf(deleted_at)],
    ["Messages", `${count(message_count, "message")}, ${state}`],
    ["By key", requested_by],
    ["Chat", chat_id],
    ...(export_sha256 ? [["Saved copy, SHA-256", export_sha256]] : []),
  ];
  return element(
    "dl",
    { className: "receipt" },
    ...rows.map(([term, text]) =>
      element("div", {}, element("dt", { textContent: term }), element("dd", { textContent: text })),
    ),
  );
}
