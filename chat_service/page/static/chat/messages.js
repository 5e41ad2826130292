// The messages of the open chat, ordered by seq. Each is shown once, wherever it came from.

import { byId, element } from "./elements.js";
import { when } from "./words.js";

const NEAR = 80; // px; closer to an end of the list than this counts as being there

export class Messages {
  /** `own(message)` tells whether a message is our own; `needsOlder()` is called when the user scrolls to the top. */
  constructor(own, needsOlder) {
    this._own = own;
    this._rows = new Map();
    this._list = byId("messages");
    this._scroller = byId("scroller");
    this._newest = byId("newest");
    this._list.replaceChildren();
    this._newest.hidden = true;
    this._newest.onclick = () => this.toEnd();
    this._scroller.onscroll = () => {
      if (this.isAtEnd) this._newest.hidden = true;
      if (this._scroller.scrollTop < NEAR) needsOlder();
    };
  }

  get firstSeq() {
    return this._list.firstElementChild ? Number(this._list.firstElementChild.dataset.seq) : null;
  }

  get isEmpty() {
    return this._rows.size === 0;
  }

  get isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this._scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  toEnd() {
    this._scroller.scrollTop = this._scroller.scrollHeight;
    this._newest.hidden = true;
  }

  /** Shows a message that was just posted; returns false if it was shown already. */
  add(message) {
    if (this._rows.has(message.seq)) return false;
    const follow = this.isAtEnd || this._own(message);
    this._place(message);
    if (follow) this.toEnd();
    else this._newest.hidden = false;
    return true;
  }

  /** Shows older messages above the first; what is in view stays in place. */
  addOlder(messages) {
    const fromEnd = this._scroller.scrollHeight - this._scroller.scrollTop;
    for (const message of messages) this._place(message);
    this._scroller.scrollTop = this._scroller.scrollHeight - fromEnd;
  }

  /** Updates the list to what was just loaded: `latest` are all messages from seq `first` to `last`. */
  agreeWith(latest, first, last) {
    const there = new Map(latest.map((message) => [message.seq, message]));
    for (const [seq, row] of this._rows) {
      if (seq >= first && seq <= last && !there.has(seq)) {
        row.remove();
        this._rows.delete(seq);
      }
    }
    for (const message of latest) {
      if (this._rows.has(message.seq)) this._draw(this._rows.get(message.seq), message);
      else this.add(message);
    }
  }

  _place(message) {
    const row = this._draw(element("li", { dataset: { seq: message.seq } }), message);
    let before = this._list.lastElementChild;
    while (before && Number(before.dataset.seq) > message.seq) before = before.previousElementSibling;
    if (before) before.after(row);
    else this._list.prepend(row);
    this._rows.set(message.seq, row);
  }

  _draw(row, message) {
    row.className = `message ${this._own(message) ? "own" : message.role}`;
    const who = message.sender_id ?? message.role;
    const edited = message.edited_at ? ", edited" : "";
    row.replaceChildren(
      element("p", { className: "content", textContent: message.content }),
      element("p", { className: "about" }, element("b", { textContent: who }), ` ${when(message.created_at)}${edited}`),
    );
    return row;
  }
}
