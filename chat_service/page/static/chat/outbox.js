// Our own messages that are not posted yet: sending, failed, or retried. Each has its own client id, so that none is
// posted twice.

import { newId } from "./api.js";
import { element, sentence } from "./elements.js";

const LARGEST_FRAME = 64 * 1024; // bytes; a larger one would end the connection
const encoder = new TextEncoder();

export class Outbox {
  /** `place` is the list to show them in; `socket()` returns the connection, or null while there is none. */
  constructor(place, socket) {
    this._place = place;
    this._socket = socket;
    this._waiting = new Map();
    place.replaceChildren();
  }

  get isEmpty() {
    return this._waiting.size === 0;
  }

  add(content, sender) {
    // This replaces half an emoji, which cutting text can leave and which cannot be sent.
    const text = new TextDecoder().decode(encoder.encode(content));
    const frame = { type: "message.create", content: text, sender_id: sender, client_id: newId() };
    const row = element("li", { className: "message own" });
    this._waiting.set(frame.client_id, { frame, row });
    this._place.append(row);
    if (encoder.encode(JSON.stringify(frame)).length > LARGEST_FRAME) {
      this.fail(frame.client_id, { detail: "This message is too long: it may have at most 64 KiB." }, false);
    } else {
      this._send(frame.client_id);
    }
  }

  /** Sends unanswered messages again: with the same client id each stays the same message. */
  sendAgain() {
    for (const [clientId, { failed }] of this._waiting) {
      if (!failed) this._send(clientId);
    }
  }

  /** Removes a message, because it was posted. */
  arrived(clientId) {
    this._waiting.get(clientId)?.row.remove();
    this._waiting.delete(clientId);
  }

  /** Shows why a message was not posted; returns whether it is in this outbox. */
  fail(clientId, problem, canRetry = true) {
    const one = this._waiting.get(clientId);
    if (!one) return false;
    one.failed = true;
    const again = element("button", { type: "button", className: "link", textContent: "Try again" });
    again.onclick = () => this._send(clientId);
    const discard = element("button", { type: "button", className: "link", textContent: "Discard" });
    discard.onclick = () => this.arrived(clientId);
    this._show(one, "failed", `Not sent. ${sentence(problem)} `, ...(canRetry ? [again, " "] : []), discard);
    return true;
  }

  _send(clientId) {
    const one = this._waiting.get(clientId);
    one.failed = false;
    const socket = this._socket();
    this._show(one, "sending", socket?.isOpen ? "Sending…" : "Waiting for the connection…");
    if (socket?.isOpen) socket.send(one.frame);
  }

  _show({ frame, row }, state, ...about) {
    row.dataset.state = state;
    row.replaceChildren(
      element("p", { className: "content", textContent: frame.content }),
      element("p", { className: "about", role: state === "failed" ? "alert" : null }, ...about),
    );
  }
}
