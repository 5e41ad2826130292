// The trash: the chats that can be restored, and until when.

import { announce, byId, element, showError } from "./elements.js";
import { count, momentOf, titleOf } from "./words.js";

const PAGE = 50;

export class Trash {
  /** `onRestored(chatId)` is called after a restore; `onDelete(chat)` when the user wants to delete a chat for good. */
  constructor(api, { onRestored, onDelete }) {
    this._api = api;
    this._onRestored = onRestored;
    this._onDelete = onDelete;
    this._place = byId("trash");
    this._place.ontoggle = () => this._place.open && this.refresh();
  }

  /** Opens the list, and moves the keyboard focus to it. */
  show() {
    this._place.open = true; // which loads it
    this._place.querySelector("summary").focus();
  }

  /** Reloads the list, if it is open. */
  async refresh() {
    if (!this._place.open) return;
    try {
      const { items, next_cursor: more } = await this._api.trash(PAGE);
      this._draw(items, more !== null);
      showError(byId("trash-error"), null);
    } catch (problem) {
      showError(byId("trash-error"), problem);
    }
  }

  /** Restores a chat, and opens it. */
  async restore(chatId) {
    try {
      const chat = await this._api.restore(chatId);
      announce(`${titleOf(chat)} was restored.`);
      this._onRestored(chat);
    } catch (problem) {
      this._place.open = true;
      showError(byId("trash-error"), problem);
    }
    await this.refresh();
  }

  /** Returns a button that restores the chat. */
  restoreButton(chat) {
    const button = element("button", { type: "button", className: "primary", textContent: "Restore" });
    button.ariaLabel = `Restore ${titleOf(chat)}`;
    button.onclick = async () => {
      button.disabled = true;
      await this.restore(chat.id);
      button.disabled = false;
    };
    return button;
  }

  _draw(chats, areMore) {
    const rows = chats.map((chat) => {
      const remove = element("button", { type: "button", className: "danger-quiet", textContent: "Delete for good" });
      remove.ariaLabel = `Delete ${titleOf(chat)} for good`;
      remove.onclick = () => this._onDelete(chat);
      const about = `${count(chat.message_count, "message")}, kept until ${momentOf(chat.purge_at)}`;
      const text = element("p", {}, element("b", { textContent: titleOf(chat) }), element("span", { className: "quiet", textContent: about }));
      return element("li", {}, text, element("div", {}, this.restoreButton(chat), remove));
    });
    if (!rows.length) rows.push(element("li", { className: "quiet", textContent: "The trash is empty." }));
    if (areMore) rows.push(element("li", { className: "quiet", textContent: "and more" }));
    byId("trash-list").replaceChildren(...rows);
  }
}
