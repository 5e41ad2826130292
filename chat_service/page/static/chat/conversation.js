// The open chat: its messages, who is connected, and the message that is being written.

import { announce, byId, showError } from "./elements.js";
import { Messages } from "./messages.js";
import { Outbox } from "./outbox.js";
import { watchPresence } from "./presence.js";
import { name } from "./session.js";
import { ChatSocket } from "./socket.js";
import { titleOf } from "./words.js";

const PAGE = 50;

const STATES = {
  connecting: () => "Connecting…",
  open: () => "Live",
  waiting: (seconds) => `Connection lost. Trying again in ${seconds} s`,
  failed: () => "Not connected",
  closed: () => "Not connected",
};

export class Conversation {
  /** The callbacks in `hooks`: `changed(chat)`, `gone(chatId, wasDeletedNow)`, `keyRejected()`. */
  constructor(api, chat, hooks) {
    this.chat = chat;
    this._api = api;
    this._hooks = hooks;
    this._socket = null;
    this._lastSeq = 0;
    this._isEnded = false;
    this._isLoading = false;
    this._isStale = false;
    this._messages = new Messages((message) => message.sender_id === name(), () => this._loadOlder());
    this._outbox = new Outbox(byId("pending"), () => this._socket);
    this._presence = watchPresence(api, chat.id);
    this._drawHead();
    showError(byId("chat-error"), null);
    byId("older").hidden = true;
    byId("older").onclick = () => this._loadOlder();
    byId("state-retry").onclick = () => (this._socket ? this._socket.retryNow() : this.connect());
    byId("composer").onsubmit = (event) => this._submit(event);
  }

  /** Shows the latest messages, and opens the WebSocket. */
  async start() {
    const page = await this._load(null);
    if (this._isEnded || page === null) return;
    this._lastSeq = page.items[0]?.seq ?? 0;
    this._showOlder(page);
    this._messages.toEnd();
    this.connect();
  }

  connect() {
    if (this._isEnded || this._socket) return;
    this._socket = new ChatSocket(this._api, this.chat.id, () => this._lastSeq, {
      frame: (frame) => this._hear(frame),
      state: (state, seconds) => this._drawState(state, seconds),
      open: () => {
        showError(byId("chat-error"), null);
        this._outbox.sendAgain();
        this._presence.look();
      },
      deleted: () => this._gone(true),
      missing: () => this._gone(false),
      keyRejected: () => this._hooks.keyRejected(),
      failed: (problem) => {
        this._socket = null;
        showError(byId("chat-error"), problem);
      },
    });
  }

  /** Closes the WebSocket but keeps the messages; returns whether it was open. */
  async disconnect() {
    const socket = this._socket;
    this._socket = null;
    await socket?.stop();
    return socket !== null;
  }

  async end() {
    this._isEnded = true;
    this._presence.stop();
    await this.disconnect();
  }

  _gone(wasDeletedNow) {
    if (!this._isEnded) this._hooks.gone(this.chat.id, wasDeletedNow);
  }

  async _load(before) {
    this._isLoading = true;
    try {
      return await this._api.messages(this.chat.id, before, PAGE);
    } catch (problem) {
      if (problem.status === 404) this._gone(false);
      else showError(byId("chat-error"), problem);
      return null;
    } finally {
      this._isLoading = false;
      this._drawEmptiness();
    }
  }

  async _loadOlder() {
    if (this._isLoading || byId("older").hidden || this._messages.isEmpty) return;
    const page = await this._load(this._messages.firstSeq);
    if (page && !this._isEnded) this._showOlder(page);
  }

  _showOlder(page) {
    this._messages.addOlder(page.items);
    byId("older").hidden = page.next_cursor === null;
    this._drawEmptiness();
    this._lookAgain();
  }

  _hear(frame) {
    if (frame.type === "message.created") this._take(frame.message, frame.client_id);
    else if (frame.type === "chat.updated") this._update(frame.chat);
    else if (frame.type === "error" && !this._outbox.fail(frame.client_id, frame)) showError(byId("chat-error"), frame);
  }

  _take(message, clientId) {
    this._lastSeq = Math.max(this._lastSeq, message.seq);
    if (clientId) this._outbox.arrived(clientId);
    if (!this._messages.add(message)) return;
    if (message.sender_id !== name()) announce(`${message.sender_id ?? message.role}: ${message.content}`);
    this.chat = {
      ...this.chat,
      message_count: this.chat.message_count + 1,
      updated_at: message.created_at,
      last_message_at: message.created_at,
    };
    this._hooks.changed(this.chat);
    this._drawEmptiness();
  }

  /** Loads changes other than new messages: title, edits, removals. */
  _update(chat) {
    this.chat = chat;
    this._drawHead();
    this._hooks.changed(chat);
    this._isStale = true;
    this._lookAgain();
  }

  async _lookAgain() {
    // If a load is under way already, another one follows it.
    while (this._isStale && !this._isLoading && !this._isEnded) {
      this._isStale = false;
      const last = this._lastSeq; // later messages may be missing in the response
      const page = await this._load(null);
      if (page === null || this._isEnded) return;
      this._messages.agreeWith(page.items, page.next_cursor === null ? 0 : page.items.at(-1).seq, last);
    }
    this._drawEmptiness();
  }

  _submit(event) {
    event.preventDefault();
    const text = byId("text");
    if (!text.value.trim()) return;
    this._outbox.add(text.value, name());
    text.value = "";
    text.dispatchEvent(new Event("input")); // resets the height
    this._messages.toEnd();
    this._drawEmptiness();
  }

  _drawHead() {
    byId("title").textContent = titleOf(this.chat);
    document.title = `${titleOf(this.chat)} · Chat service`;
  }

  _drawState(state, seconds) {
    if (this._isEnded) return;
    byId("state").textContent = STATES[state](seconds);
    byId("state").dataset.state = state;
    byId("state-retry").hidden = state !== "waiting" && state !== "failed";
  }

  _drawEmptiness() {
    byId("no-messages").hidden = !this._messages.isEmpty || !this._outbox.isEmpty || this._isLoading;
  }
}
