// Who is connected to the open chat. The service does not announce connections, so this polls for them.

import { byId, element } from "./elements.js";
import { when } from "./words.js";

const LOOK_AGAIN = 4_000; // ms

/** Shows the live connections until `stop` is called; `look` polls at once. */
export function watchPresence(api, chatId) {
  let isStopped = false;
  const look = async () => {
    if (document.visibilityState !== "visible") return;
    const page = await api.connections(chatId).catch(() => null); // the socket reports the error
    if (page && !isStopped) draw(page);
  };
  draw({ items: [], next_cursor: null });
  const timer = setInterval(look, LOOK_AGAIN);
  const stop = () => {
    isStopped = true;
    clearInterval(timer);
  };
  return { look, stop };
}

function draw({ items, next_cursor }) {
  byId("present-count").textContent = `${items.length}${next_cursor ? "+" : ""} connected`;
  const rows = items.map(({ id, name, connected_at }) =>
    element("li", {}, element("bdi", { textContent: name ?? id.slice(0, 8) }), ` since ${when(connected_at)}`),
  );
  if (next_cursor) rows.push(element("li", { textContent: "and more" }));
  if (!items.length) rows.push(element("li", { textContent: "Nobody" }));
  byId("present-list").replaceChildren(...rows);
}
