// Helpers to build the page: elements are found by id, and text is never parsed as HTML.

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

/** Shows an error in its place, with the request id to ask about; null hides it. */
export function showError(place, error) {
  place.hidden = error === null;
  place.textContent = error === null ? "" : sentence(error);
}

/** Returns an error as text for the user: the service's message, and the id of the request. */
export function sentence(error) {
  const fields = Object.entries(error.errors ?? {}).map(([name, texts]) => ` ${name}: ${[texts].flat().join(" ")}`);
  const request = error.requestId ? ` (Request ${error.requestId})` : "";
  const reason = error.reason ? ` ${error.reason}` : "";
  return `${error.detail ?? error.message}${reason}${fields.join("")}${request}`;
}

/** Announces something to users of screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}
