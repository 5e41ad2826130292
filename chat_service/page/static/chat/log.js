// The tenant's log, followed live: deletes and restores by others are shown at once, whichever chat is open.

const KINDS = ["chat.trashed", "chat.restored", "chat.deleted", "chat.purged"];
const BACK_SOON = 2_000; // ms
const BACK_LATE = 60_000; // ms, after many tries

export class Log {
  /** `onEntry(entry)` is called for each entry from now on; `onGap()` when some may have been missed. */
  constructor(api, { onEntry, onGap }) {
    this._api = api;
    this._onEntry = onEntry;
    this._onGap = onGap;
    this._after = null;
    this._source = null;
    this._timer = null;
    this._tries = 0;
    // A browser has six connections to a service, for all its windows; therefore hidden windows hold none.
    this._onVisibility = () => (document.visibilityState === "visible" ? this._follow() : this._hangUp());
    document.addEventListener("visibilitychange", this._onVisibility);
    this._follow();
  }

  stop() {
    document.removeEventListener("visibilitychange", this._onVisibility);
    this._hangUp();
    this._api = null;
  }

  _hangUp() {
    clearTimeout(this._timer);
    this._source?.close();
    this._source = null;
  }

  async _follow() {
    this._hangUp();
    const api = this._api;
    try {
      if (this._after === null) {
        this._after = await api.logHead();
        this._onGap(); // for entries before it that came after the lists were loaded
      }
      const ticket = await api.logTicket();
      if (api !== this._api || document.visibilityState !== "visible") return;
      this._listen(api.logAddress(this._after, ticket));
    } catch {
      this._comeBack();
    }
  }

  _listen(address) {
    this._hangUp();
    const source = (this._source = new EventSource(address));
    source.onopen = () => (this._tries = 0);
    // An EventSource reconnects by itself, but with a ticket that was already used.
    source.onerror = () => source === this._source && this._comeBack();
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this._after = Number(event.lastEventId);
        this._onEntry(JSON.parse(event.data));
      });
    }
  }

  _comeBack() {
    this._hangUp();
    if (this._api === null) return;
    const most = Math.min(BACK_SOON * 2 ** this._tries++, BACK_LATE);
    this._timer = setTimeout(() => this._follow(), most * (0.5 + Math.random() / 2));
  }
}
