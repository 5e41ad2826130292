// The live connection to a chat: a ticket, a WebSocket, and reconnects after every interruption.

import { name } from "./session.js";

const FIRST_WAIT = 500; // ms; doubles with every failed attempt
const LONGEST_WAIT = 15_000;
const SETTLED = 5_000; // ms; after a connection that lasted longer, the back-off starts anew
const QUICK_END = 2_000; // ms; the service accepts a connection before it says why it closes it
const LONGEST_GOODBYE = 2_000; // ms to wait for the close, on a network that has gone away

const CHAT_DELETED = 4410;
const NO_CHAT = 4404;
const NO_KEY = 4401;
// An invalid or too large frame, too many pings, a missing scope: a retry would end the same way.
const FINAL = new Set([4400, 4403, 1008, 1009]);

/**
 * Stays connected to a chat until told to stop. The listeners:
 * `frame(frame)`, `state(name, seconds)` with connecting, open, waiting, failed or closed, `open()`,
 * `deleted()`, `missing()`, `keyRejected()`, `failed(problem)`.
 */
export class ChatSocket {
  constructor(api, chatId, lastSeq, listeners) {
    this._api = api;
    this._chatId = chatId;
    this._lastSeq = lastSeq;
    this._listeners = listeners;
    this._attempts = 0;
    this._stopped = false;
    this._socket = null;
    this._timer = null;
    this._ended = Promise.resolve();
    this._retryNow = () => this.retryNow();
    window.addEventListener("online", this._retryNow);
    this._connect();
  }

  get isOpen() {
    return this._socket?.readyState === WebSocket.OPEN;
  }

  send(frame) {
    this._socket.send(JSON.stringify(frame));
  }

  /** Connects at once, if it is waiting for the next attempt. */
  retryNow() {
    if (this._timer === null) return;
    clearTimeout(this._timer);
    this._connect();
  }

  /** Ends the connection for good; resolves when the service has confirmed the close, or after `LONGEST_GOODBYE`. */
  async stop() {
    this._stopped = true;
    clearTimeout(this._timer);
    window.removeEventListener("online", this._retryNow);
    this._socket?.close(1000);
    await Promise.race([this._ended, new Promise((resolve) => setTimeout(resolve, LONGEST_GOODBYE))]);
    this._listeners.state("closed");
  }

  async _connect() {
    this._timer = null;
    this._listeners.state("connecting");
    let ticket;
    try {
      ticket = await this._api.ticket(this._chatId);
    } catch (problem) {
      this._ticketRefused(problem);
      return;
    }
    if (!this._stopped) this._open(ticket);
  }

  _ticketRefused(problem) {
    if (this._stopped || problem.status === 401) return;
    if (problem.status === 404) this._listeners.missing();
    else if (problem.status === 403) this._fail(problem);
    else this._wait(problem.retryAfter);
  }

  _open(ticket) {
    const address = new URL(`/api/v1/chats/${this._chatId}/ws`, location.href.replace(/^http/, "ws"));
    address.search = new URLSearchParams({ ticket, after: this._lastSeq(), name: name() });
    address.hash = "";
    const socket = new WebSocket(address);
    this._socket = socket;
    let openedAt = Infinity;
    this._ended = new Promise((resolve) => {
      socket.onclose = ({ code, reason }) => {
        resolve();
        if (!this._stopped) this._closed(code, reason, Date.now() - openedAt);
      };
    });
    socket.onopen = () => {
      openedAt = Date.now();
      if (this._stopped) return;
      this._listeners.state("open");
      this._listeners.open();
    };
    socket.onmessage = ({ data }) => {
      if (!this._stopped) this._listeners.frame(JSON.parse(data));
    };
  }

  _closed(code, reason, lasted) {
    if (lasted > SETTLED) this._attempts = 0;
    if (code === CHAT_DELETED) this._listeners.deleted();
    else if (code === NO_CHAT) this._listeners.missing();
    // Right after opening it may be a ticket that expired on a slow network; the request for the next one will tell.
    else if (code === NO_KEY && lasted > QUICK_END) this._listeners.keyRejected();
    else if (FINAL.has(code)) this._fail({ detail: `The service ended the connection (${code} ${reason}).` });
    else this._wait(null);
  }

  _wait(atLeastSeconds) {
    const longest = Math.min(FIRST_WAIT * 2 ** this._attempts++, LONGEST_WAIT);
    // Jitter: a random wait in the second half, so that clients do not all reconnect at once after a restart.
    const wait = Math.max(longest * (0.5 + Math.random() / 2), (atLeastSeconds ?? 0) * 1000);
    this._timer = setTimeout(() => this._connect(), wait);
    this._listeners.state("waiting", Math.ceil(wait / 1000));
  }

  _fail(problem) {
    this._listeners.state("failed");
    this._listeners.failed(problem);
  }
}
