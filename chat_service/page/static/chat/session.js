// What this tab remembers: the API key and the sender's name. Nothing outlives the tab.

const KEY = "chat-service.key";
const NAME = "chat-service.name";

/** Moves a key from the address (#key=…) to this session. No server and no log sees that part of an address. */
export function takeKeyFromAddress() {
  // A plus sign means itself: the address was typed, and is not form data.
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

/** Returns the sender's name; a guest name until the user chooses one. */
export function name() {
  if (!sessionStorage.getItem(NAME)) setName(`guest-${100 + Math.floor(Math.random() * 900)}`);
  return sessionStorage.getItem(NAME);
}

export const setName = (value) => sessionStorage.setItem(NAME, value);
