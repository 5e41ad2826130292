// Numbers and times as people read them.

const wholeNumber = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Returns "1 message", "2,000 messages". */
export function count(number, noun) {
  return `${wholeNumber.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Returns a number of bytes as "700 bytes", "1.2 KB", "34 MB". */
export function size(bytes) {
  const units = ["KB", "MB", "GB", "TB"];
  if (bytes < 1000) return count(bytes, "byte");
  let amount = bytes / 1000;
  while (amount >= 999.5 && units.length > 1) {
    amount /= 1000;
    units.shift();
  }
  return `${amount.toFixed(amount < 9.95 ? 1 : 0)} ${units[0]}`;
}

/** Returns the date and the time of day. */
export function momentOf(timestamp) {
  return moment.format(new Date(timestamp));
}

/** Returns the time of day; for any day but today, with the date. */
export function when(timestamp) {
  const then = new Date(timestamp);
  return then.toDateString() === new Date().toDateString() ? clock.format(then) : moment.format(then);
}

export function titleOf(chat) {
  return chat.title || "Untitled chat";
}
