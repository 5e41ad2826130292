// How the page is built: elements by name, and text that is only ever text.

export const byId = (id) => document.getElementById(id);

/** Returns a new element; `properties` are set on it, `children` are elements or text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { dataset = {}, ...others } = properties;
  Object.assign(made, others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/** Shows an error where it belongs, with the request id to ask about; null takes it away. */
export function showError(place, error) {
  place.hidden = error === null;
  place.textContent = error === null ? "" : sentence(error);
}

/** Returns what to tell a person of an error: what the service said of it, and the id of the request. */
export function sentence(error) {
  const fields = Object.entries(error.errors ?? {}).map(([name, texts]) => ` ${name}: ${[texts].flat().join(" ")}`);
  const request = error.requestId ? ` (Request ${error.requestId})` : "";
  const reason = error.reason ? ` ${error.reason}` : "";
  return `${error.detail ?? error.message}${reason}${fields.join("")}${request}`;
}

/** Says something to those who listen to the page rather than look at it. */
export function announce(text) {
  byId("announcer").textContent = text;
}
