// What this tab remembers: the API key and a name to sign messages with. Nothing outlives the tab.

const KEY = "chat-service.key";
const NAME = "chat-service.name";

/** Takes a key from the address (#key=…), where no server and no log sees it, and removes it from there. */
export function takeKeyFromAddress() {
  // A plus sign is one here: the address was typed, and is no form.
  const key = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")).get("key");
  if (key === null) return;
  sessionStorage.setItem(KEY, key);
  history.replaceState(null, "", location.pathname);
}

/** Returns the id of the chat that the address names (#chat=…), or null. */
export function chatInAddress() {
  return new URLSearchParams(location.hash.slice(1)).get("chat");
}

export const key = () => sessionStorage.getItem(KEY);
export const setKey = (value) => sessionStorage.setItem(KEY, value);
export const forgetKey = () => sessionStorage.removeItem(KEY);

/** Returns the name to sign messages with; until the person chooses one, a guest's. */
export function name() {
  if (!sessionStorage.getItem(NAME)) setName(`guest-${100 + Math.floor(Math.random() * 900)}`);
  return sessionStorage.getItem(NAME);
}

export const setName = (value) => sessionStorage.setItem(NAME, value);
