// The page: the key, the list of chats, and the open chat, whose id is in the address (#chat=…).

import { Api } from "./api.js";
import { Chats } from "./chats.js";
import { Conversation } from "./conversation.js";
import { Deletion } from "./deletion.js";
import { byId, showError } from "./elements.js";
import { connectExports } from "./exporting.js";
import { Log } from "./log.js";
import { showReceipt } from "./receipt.js";
import * as session from "./session.js";
import { Trash } from "./trash.js";
import { momentOf } from "./words.js";

const CLOCKS_APART = 2_000; // ms; how far the clocks of the service and of this computer may differ

let api = null;
let chats = null;
let deletion = null;
let trash = null;
let log = null;
let conversation = null;
let wanted = null; // the id of the chat in the address, which may still be loading

function enter() {
  session.takeKeyFromAddress();
  if (session.key() === null) {
    askForKey(null);
    return;
  }
  api = new Api(session.key(), ({ requestId }) => askForKey({ detail: "This API key is wrong, was revoked, or has expired.", requestId }));
  deletion = new Deletion(api, { suspend, resume, onDeleted, onTrashed });
  trash = new Trash(api, { onRestored, onDelete: (chat) => deletion.openTrashed(chat) });
  byId("trash").open = false;
  chats?.stop();
  chats = new Chats(api, (chat) => deletion.open(chat));
  log?.stop();
  log = new Log(api, { onEntry, onGap: refreshLists });
  byId("entrance").hidden = true;
  byId("app").hidden = false;
  byId("name").value = session.name();
  showWhatTheKeyMayDo();
  connectExports(byId("export"), api, () => conversation.chat.id, (problem) => showError(byId("chat-error"), problem));
  chats.refresh();
  follow();
}

/** Hides what the key may not do. Until its scopes are known, everything is shown, and the service refuses it. */
async function showWhatTheKeyMayDo() {
  const asked = api;
  byId("app").dataset.may = "read write delete";
  byId("may").textContent = "";
  const me = await api.me().catch(() => null); // the list of chats shows the error
  if (me === null || asked !== api) return;
  byId("app").dataset.may = me.scopes.join(" ");
  byId("may").textContent = `${me.label ? `The key “${me.label}”` : "This key"} may ${new Intl.ListFormat("en").format(me.scopes)}.`;
}

/** Goes back to the form that asks for a key; `problem` says what is wrong with the current one, or is null. */
async function askForKey(problem) {
  session.forgetKey();
  chats?.stop();
  log?.stop();
  byId("deletion").close();
  await close();
  wanted = null;
  byId("app").hidden = true;
  byId("entrance").hidden = false;
  document.title = "Chat service";
  showError(byId("key-error"), problem);
  byId("key").value = "";
  byId("key").focus();
}

const showOnly = (id) => {
  for (const part of ["nothing", "conversation", "gone"]) byId(part).hidden = part !== id;
  byId("app").dataset.view = id === "nothing" ? "list" : "chat";
};

async function close() {
  const ended = conversation;
  conversation = null;
  await ended?.end();
}

/** Opens the chat in the address. */
async function follow() {
  const chatId = session.chatInAddress();
  if (chatId === wanted && chatId !== null) return;
  wanted = chatId;
  chats.select(chatId);
  await close();
  if (wanted !== chatId) return;
  if (chatId === null) {
    document.title = "Chat service";
    showOnly("nothing");
    return;
  }
  let chat;
  try {
    chat = await api.chat(chatId);
  } catch (problem) {
    if (wanted === chatId && problem.status !== 401) await notThere(chatId, problem);
    return;
  }
  if (wanted !== chatId) return;
  showOnly("conversation");
  chats.update(chat);
  conversation = new Conversation(api, chat, {
    changed: (changed) => chats.update(changed),
    gone: (id, wasDeletedNow) => (wasDeletedNow ? wasTakenAway(id) : notThere(id, null)),
    keyRejected: () => askForKey({ detail: "This API key was revoked, or has expired." }),
  });
  conversation.start();
  // On a phone the keyboard would cover the messages.
  byId(matchMedia("(max-width: 700px)").matches ? "title" : "text").focus();
}

async function notThere(chatId, problem) {
  if (problem !== null && problem.status !== 404) {
    showGone("The chat could not be opened", problem.detail);
    return;
  }
  showGone("There is no such chat", "Your tenant has no chat with this id.");
  chats.remove(chatId);
  const receipt = await showReceipt(api, chatId, byId("gone-receipt"));
  const kept = receipt ? null : await api.trashed(chatId).catch(() => null);
  if (wanted !== chatId) return;
  if (receipt) sayGone("This chat was deleted", "Only this receipt is left of it.");
  if (kept) isInTrash(kept, "This chat is in the trash");
}

function wasDeleted(chatId, title) {
  showGone(title, "The chat and all its messages are gone for good. Only this receipt is left.");
  chats.remove(chatId);
  showReceipt(api, chatId, byId("gone-receipt"));
  close();
}

/** Shows how a chat was removed: deleted or trashed by somebody else, or expired. The socket does not say which. */
async function wasTakenAway(chatId) {
  const hadAnEnd = Date.parse(conversation?.chat.expires_at ?? "") <= Date.now() + CLOCKS_APART;
  const receipt = await api.receipt(chatId).catch(() => null);
  const kept = receipt ? null : await api.trashed(chatId).catch(() => null);
  if (wanted !== chatId) return;
  if (kept) isInTrash(kept, "This chat was moved to the trash by somebody else");
  else wasDeleted(chatId, hadAnEnd ? "This chat has expired" : "This chat was deleted by somebody else");
}

function isInTrash(chat, title) {
  showGone(title, `It can be restored until ${momentOf(chat.purge_at)}. After that it is deleted for good.`);
  byId("gone-restore").replaceChildren(trash.restoreButton(chat));
  chats.remove(chat.id);
  close();
}

function showGone(title, text) {
  byId("gone-receipt").replaceChildren();
  byId("gone-restore").replaceChildren();
  sayGone(title, text);
  showOnly("gone");
  if (!byId("deletion").open) byId("gone-title").focus();
}

function sayGone(title, text) {
  byId("gone-title").textContent = title;
  byId("gone-text").textContent = text;
}

async function suspend(chatId) {
  return conversation?.chat.id === chatId ? conversation.disconnect() : false;
}

function resume(chatId) {
  if (conversation?.chat.id === chatId) conversation.connect();
}

function refreshLists() {
  chats.refresh();
  trash.refresh();
}

/** Handles a delete or a restore by anybody. An open chat hears of it from its socket. */
function onEntry({ kind, chat_id: chatId }) {
  if (kind === "chat.restored") {
    refreshLists();
    if (wanted === chatId && conversation === null) reopen(chatId);
  } else if (kind !== "chat.purged") {
    chats.remove(chatId);
    trash.refresh();
    const couldBeRestored = wanted === chatId && byId("gone-restore").childElementCount > 0;
    if (kind === "chat.deleted" && couldBeRestored) notThere(chatId, null);
  }
}

function reopen(chatId) {
  if (wanted === chatId) wanted = null; // it is shown as not found
  if (session.chatInAddress() === chatId) follow();
  else location.hash = `chat=${chatId}`;
}

function onTrashed(chat) {
  chats.remove(chat.id);
  trash.refresh();
  if (conversation?.chat.id === chat.id) isInTrash(chat, "Moved to the trash");
  else trash.show();
}

function onRestored(chat) {
  chats.refresh();
  reopen(chat.id);
}

function onDeleted(chatId, title) {
  chats.remove(chatId);
  trash.refresh();
  const isOpen = conversation?.chat.id === chatId;
  if (isOpen) wasDeleted(chatId, title);
  return isOpen;
}

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  session.setKey(byId("key").value.trim());
  enter();
};
byId("leave").onclick = () => {
  history.replaceState(null, "", location.pathname); // the next key may be another tenant's
  askForKey(null);
};
byId("name").onchange = ({ target }) => {
  session.setName(target.value.trim());
  target.value = session.name();
};
byId("delete").onclick = () => deletion.open(conversation.chat);
byId("text").onkeydown = (event) => {
  // While an input method composes a word, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
};
byId("text").oninput = ({ target }) => {
  target.style.height = "auto";
  target.style.height = `${Math.min(target.scrollHeight + 2, window.innerHeight * 0.4)}px`;
};
// A menu closes on a click elsewhere, or on Escape.
document.addEventListener("click", ({ target }) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(target)) menu.open = false;
});
document.addEventListener("keydown", ({ key }) => {
  const menu = key === "Escape" && document.querySelector("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
window.addEventListener("hashchange", () => {
  if (new URLSearchParams(location.hash.slice(1)).has("key") || session.key() === null) enter();
  else follow();
});

enter();
