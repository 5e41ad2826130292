// Deleting a chat, or moving it to the trash: shows what will be lost, removes exactly that, and shows the result.

import { newId } from "./api.js";
import { byId, element, sentence } from "./elements.js";
import { connectExports, sha256 } from "./exporting.js";
import { showReceipt } from "./receipt.js";
import { count, size, titleOf } from "./words.js";

const OWN_CLOSE_TRIES = 8;
const OWN_CLOSE_WAIT = 250; // ms; the service counts our own connection for a moment after it was closed

const HELD = new Set(["legal_hold", "not_deletable"]);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Tells whether the service said that it changed nothing. */
function isRefusal({ status, code }) {
  return (status >= 400 && status < 500) || code === "database_unavailable";
}

export class Deletion {
  /**
   * `suspend(chatId)` closes this page's own connection to the chat, and returns whether there was one;
   * `resume(chatId)` opens it again; `onDeleted(chatId, title)` is called when the chat is gone, and returns whether it
   * shows the receipt itself, under that title; `onTrashed(chat)` is called when the chat is in the trash.
   */
  constructor(api, { suspend, resume, onDeleted, onTrashed }) {
    this._api = api;
    this._suspend = suspend;
    this._resume = resume;
    this._onDeleted = onDeleted;
    this._onTrashed = onTrashed;
    this._dialog = byId("deletion");
    this._isBusy = false;
    this._dialog.oncancel = (event) => {
      if (this._isBusy) event.preventDefault();
    };
    this._dialog.onclose = () => this._closed();
    const note = (problem) => this._note(problem && sentence(problem));
    connectExports(byId("deletion-export"), api, () => this._chat.id, note, (file) => this._kept(file));
  }

  /** Asks the user for confirmation, then deletes the chat or moves it to the trash. */
  async open(chat) {
    this._chat = chat;
    this._isDone = false;
    this._wasOpen = false;
    this._preview = null;
    this._show("Delete this chat?", ["Checking what would be deleted…"], [this._cancel("Cancel")]);
    await this._ask(null);
  }

  /** Asks the user for confirmation, then deletes a chat in the trash for good. */
  openTrashed(chat) {
    this._chat = chat;
    this._isDone = false;
    this._wasOpen = false;
    this._preview = null;
    const text = [
      element("p", {}, "“", element("b", { textContent: titleOf(chat) }), "”"),
      element("p", { textContent: `${count(chat.message_count, "message")} will be deleted for everybody. This cannot be undone.` }),
    ];
    const request = { idempotencyKey: newId(), send: (one) => this._api.deleteTrashed(chat.id, one) };
    this._show("Delete this chat for good?", text, [
      this._cancel("Cancel"),
      this._button(`Delete ${count(chat.message_count, "message")}`, "danger", () => this._send(request)),
    ]);
  }

  /** Makes the delete apply only to the state in the saved copy. */
  async _kept({ blob, etag }) {
    this._copy = { etag, exportSha256: await sha256(blob) };
    this._note("You have saved a copy. If the chat changes before you delete it, nothing is deleted.");
  }

  async _ask(note) {
    const before = this._preview;
    this._copy = null;
    try {
      this._preview = await this._api.preview(this._chat.id);
    } catch (problem) {
      this._failed(problem, () => this._ask(note), "Nothing was deleted");
      return;
    }
    if (!this._dialog.open) return;
    if (!this._preview.deletable) return this._showHeld(this._preview);
    const { message_count: messages, bytes, bytes_estimated: estimated } = this._preview;
    const what = messages ? `${count(messages, "message")} (${estimated ? "about " : ""}${size(bytes)})` : "This chat, without any message,";
    const text = [
      element("p", {}, "“", element("b", { textContent: titleOf(this._chat) }), "”"),
      element("p", { textContent: `${what} will disappear for everybody. From the trash you can restore the chat. Deleting it for good cannot be undone.` }),
    ];
    const label = messages ? `Delete ${count(messages, "message")} for good` : "Delete for good";
    this._show("Delete this chat?", text, [
      this._cancel("Cancel"),
      this._button("Move to trash", "primary", () => this._take({ toTrash: true, evict: false })),
      this._button(label, "danger", () => this._take({ toTrash: false, evict: false })),
    ]);
    byId("deletion-export").hidden = messages === 0;
    if (note && before) this._note(`${note} It had ${count(before.message_count, "message")} when you were asked.`);
  }

  async _take({ toTrash, evict }) {
    this._busy(true);
    this._note(null);
    this._wasOpen = (await this._suspend(this._chat.id)) || this._wasOpen;
    // One idempotency key for this request: a retry after a lost response gets that response.
    const send = (request) => (toTrash ? this._api.moveToTrash(this._chat.id, request) : this._api.delete(this._chat.id, request));
    await this._send({ etag: this._preview.etag, ...this._copy, idempotencyKey: newId(), evict, toTrash, send });
  }

  async _send(request) {
    this._busy(true);
    let answer;
    try {
      answer = await this._sendUntilOwnCloseIsKnown(request);
    } catch (problem) {
      if (problem.code === "active_connections") this._showBusy(problem, request);
      else if (HELD.has(problem.code)) this._showHeld(problem);
      else if (problem.status === 412) await this._ask("The chat has changed in the meantime.");
      else if (problem.code === "not_in_trash") this._failed(problem, null);
      else if (problem.status === 404) await this._done("This chat was already deleted");
      else this._failed(problem, () => this._send(request));
      return;
    } finally {
      this._busy(false);
    }
    if (request.toTrash) this._trashed(answer);
    else await this._done("Deleted");
  }

  _trashed({ purge_at }) {
    this._isDone = true;
    this._dialog.close();
    this._onTrashed({ ...this._chat, purge_at });
  }

  async _sendUntilOwnCloseIsKnown(request) {
    for (let tries = this._wasOpen ? OWN_CLOSE_TRIES : 1; ; tries--) {
      try {
        return await request.send(request);
      } catch (problem) {
        if (problem.code !== "active_connections" || tries <= 1) throw problem;
        // Fewer connections than with ours: ours is no longer counted, so these are others'.
        if (problem.activeConnections < this._preview.active_connections) throw problem;
      }
      await pause(OWN_CLOSE_WAIT);
    }
  }

  _showBusy({ activeConnections, requestId }, { toTrash }) {
    const others = count(activeConnections, "other connection");
    const text = [
      element("p", { textContent: `${others} to this chat ${activeConnections === 1 ? "is" : "are"} open, so nothing was deleted.` }),
      element("p", { textContent: "Wait until everybody has left, or disconnect them: they will see that the chat was deleted." }),
      element("p", { className: "quiet", textContent: `409 active_connections, request ${requestId}` }),
    ];
    this._show("Others are connected", text, [
      this._cancel("Cancel"),
      this._button("Try again", "primary", () => this._take({ toTrash, evict: false })),
      this._button(
        toTrash ? "Disconnect them and move to trash" : "Disconnect them and delete",
        "danger",
        () => this._take({ toTrash, evict: true }),
      ),
    ]);
  }

  /** Says that the chat cannot be deleted, and shows which holds keep it, if the key may know them. */
  _showHeld({ holds = [] }) {
    const text = [
      element("p", {}, "“", element("b", { textContent: titleOf(this._chat) }), "”"),
      element("p", { textContent: "This chat must be kept: it cannot be deleted, and its messages cannot be changed. It can be moved to the trash, and stays there." }),
      ...holds.map((hold) => element("p", { className: "quiet", textContent: `Hold ${hold}` })),
    ];
    const buttons = [this._cancel("Close")];
    const toTrash = () => this._take({ toTrash: true, evict: false });
    if (this._preview) buttons.push(this._button("Move to trash", "primary", toTrash));
    this._show("This chat cannot be deleted", text, buttons);
  }

  _failed(problem, again, title = isRefusal(problem) ? "Nothing was deleted" : "It is not known whether the chat was deleted") {
    const text = [element("p", { textContent: sentence(problem) })];
    const buttons = [this._cancel("Cancel")];
    if (again !== null && problem.status !== 403) buttons.push(this._button("Try again", "primary", again));
    this._show(title, text, buttons);
  }

  async _done(title) {
    this._isDone = true;
    const isShown = this._onDeleted(this._chat.id, title);
    if (isShown) {
      this._dialog.close();
      byId("gone-title").focus();
      return;
    }
    const place = element("div");
    this._show(title, [element("p", {}, "“", element("b", { textContent: titleOf(this._chat) }), "”"), place], [this._cancel("Close")]);
    await showReceipt(this._api, this._chat.id, place);
  }

  _show(title, text, buttons) {
    byId("deletion-title").textContent = title;
    byId("deletion-text").replaceChildren(...text);
    byId("deletion-export").hidden = true;
    byId("deletion-buttons").replaceChildren(...buttons);
    this._note(null);
    if (!this._dialog.open) this._dialog.showModal();
    buttons[0].focus(); // the harmless one: Cancel or Close
  }

  _note(text) {
    byId("deletion-note").hidden = !text;
    byId("deletion-note").textContent = text ?? "";
  }

  _busy(isBusy) {
    this._isBusy = isBusy;
    this._dialog.setAttribute("aria-busy", isBusy);
    for (const button of byId("deletion-buttons").children) button.disabled = isBusy;
    const last = byId("deletion-buttons").lastElementChild;
    if (isBusy && last) last.textContent = "Working…";
  }

  _cancel(label) {
    return this._button(label, "", () => this._dialog.close());
  }

  _button(label, className, onclick) {
    return element("button", { type: "button", textContent: label, className, onclick });
  }

  _closed() {
    if (!this._isDone && this._wasOpen) this._resume(this._chat.id);
    this._wasOpen = false;
  }
}
