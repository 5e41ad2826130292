// The list of the tenant's chats, latest activity first.

import { byId, element, showError } from "./elements.js";
import { count, titleOf, when } from "./words.js";

const PAGE = 50;
const LARGEST_PAGE = 200;
const LOOK_AGAIN = 10_000; // ms; only the open chat gets its changes live

export class Chats {
  /** `onDelete(chat)` is called when the user wants to delete a chat. */
  constructor(api, onDelete) {
    this._api = api;
    this._onDelete = onDelete;
    this._rows = new Map();
    this._chats = [];
    this._cursor = null;
    this._current = null;
    this._list = byId("chats");
    this._list.replaceChildren();
    byId("more-chats").onclick = () => this._more();
    byId("new-chat").onsubmit = (event) => this._create(event);
    byId("import").onclick = () => byId("import-file").click();
    byId("import-file").onchange = ({ target }) => target.files.length && this._import(target);
    const refresh = () => document.visibilityState === "visible" && this.refresh();
    this._timer = setInterval(refresh, LOOK_AGAIN);
    document.onvisibilitychange = refresh;
  }

  stop() {
    clearInterval(this._timer);
    document.onvisibilitychange = null;
  }

  /** Reloads the list, with as many chats as were shown. */
  async refresh() {
    await this._load(() => this._api.chats(null, Math.min(Math.max(this._chats.length, PAGE), LARGEST_PAGE)), []);
  }

  /** Marks the open chat; null marks none. */
  select(chatId) {
    this._current = chatId;
    for (const [id, { link }] of this._rows) link.ariaCurrent = id === chatId ? "page" : null;
  }

  remove(chatId) {
    this._chats = this._chats.filter((chat) => chat.id !== chatId);
    this._draw();
  }

  /** Shows the new fields of a chat; reloads the list if the chat is not in it yet. */
  update(changed) {
    if (!this._chats.some((chat) => chat.id === changed.id)) {
      this.refresh();
      return;
    }
    this._chats = this._chats.map((chat) => (chat.id === changed.id ? { ...chat, ...changed } : chat));
    this._chats.sort((one, other) => Date.parse(other.updated_at) - Date.parse(one.updated_at));
    this._draw();
  }

  async _more() {
    await this._load(() => this._api.chats(this._cursor, PAGE), this._chats);
  }

  async _load(ask, before) {
    try {
      const page = await ask();
      const known = new Set(before.map((chat) => chat.id));
      this._chats = [...before, ...page.items.filter((chat) => !known.has(chat.id))];
      this._cursor = page.next_cursor;
      showError(byId("list-error"), null);
    } catch (problem) {
      showError(byId("list-error"), problem);
      return;
    }
    this._draw();
  }

  async _create(event) {
    event.preventDefault();
    const title = byId("new-title");
    await this._open(this._api.create(title.value.trim()), () => (title.value = ""));
  }

  async _import(input) {
    await this._open(this._api.import(input.files[0]), () => {});
    input.value = ""; // so that the same file can be chosen again
  }

  /** Opens a chat when it has been created. */
  async _open(making, onMade) {
    try {
      const chat = await making;
      onMade();
      location.hash = `chat=${chat.id}`;
      await this.refresh();
    } catch (problem) {
      showError(byId("list-error"), problem);
    }
  }

  _draw() {
    const focused = document.activeElement;
    const rows = this._chats.map((chat) => this._row(chat));
    const isSame = rows.length === this._list.children.length && rows.every((row, at) => row === this._list.children[at]);
    if (!isSame) this._list.replaceChildren(...rows);
    if (focused.isConnected && focused !== document.activeElement) focused.focus();
    const shown = new Set(this._chats.map((chat) => chat.id));
    for (const id of this._rows.keys()) if (!shown.has(id)) this._rows.delete(id);
    byId("more-chats").hidden = this._cursor === null;
    byId("no-chats").hidden = rows.length > 0;
    this.select(this._current);
  }

  _row(chat) {
    if (!this._rows.has(chat.id)) {
      const link = element("a", { href: `#chat=${chat.id}` });
      const remove = element("button", { className: "danger-quiet", textContent: "Delete" });
      this._rows.set(chat.id, { row: element("li", {}, link, remove), link, remove });
    }
    const { row, link, remove } = this._rows.get(chat.id);
    const end = chat.expires_at ? `, expires ${when(chat.expires_at)}` : "";
    const about = `${count(chat.message_count, "message")}, ${when(chat.last_message_at ?? chat.created_at)}${end}`;
    link.replaceChildren(
      element("b", { textContent: titleOf(chat) }),
      element("span", { className: "quiet", textContent: about }),
    );
    remove.ariaLabel = `Delete ${titleOf(chat)}`;
    remove.onclick = () => this._onDelete(chat);
    return row;
  }
}
