// The HTTP API as this page uses it. Every failure is a Problem.

/** Returns a new random UUID. `crypto.randomUUID` exists over https only. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}

/** An error response of the service (RFC 9457); `status` is 0 if there was no whole response. */
export class Problem extends Error {
  constructor(status, members, retryAfter = null) {
    super(members.detail);
    this.status = status;
    this.code = members.code;
    this.detail = members.detail;
    this.errors = members.errors;
    this.reason = members.reason;
    this.activeConnections = members.active_connections;
    this.holds = members.holds;
    this.requestId = members.request_id;
    this.retryAfter = retryAfter;
  }
}

const CHATS = "/api/v1/chats";
const TRASH = "/api/v1/trash";
const LOG = "/api/v1/log";
const SENDABLE = /^[\x21-\x7e]+$/; // in a header; fetch would fail for any other key as if the service had not answered

export class Api {
  constructor(key, onKeyRejected) {
    this._key = key;
    this._onKeyRejected = onKeyRejected;
  }

  /** Returns what the service knows of the key: whose it is, and what it may do. */
  me() {
    return this._json("GET", "/api/v1/me");
  }

  chats(cursor, limit) {
    return this._json("GET", CHATS + query({ limit, cursor }));
  }

  create(title) {
    // The id is chosen here, so that a retry cannot create two chats.
    return this._json("POST", CHATS, { body: { id: newId(), ...(title && { title }) } });
  }

  /** Creates a chat from a file that was exported as NDJSON. */
  import(file) {
    return this._json("POST", `${CHATS}/import`, { headers: { "Content-Type": "application/x-ndjson" }, file });
  }

  chat(id) {
    return this._json("GET", `${CHATS}/${id}`);
  }

  /** Returns the messages before a seq, or the latest ones without `before`; newest first. */
  messages(id, before, limit) {
    return this._json("GET", `${CHATS}/${id}/messages` + query({ order: "desc", before, limit }));
  }

  connections(id) {
    return this._json("GET", `${CHATS}/${id}/connections`);
  }

  async ticket(id) {
    return (await this._json("POST", `${CHATS}/${id}/tickets`)).ticket;
  }

  /** Returns what deleting the chat would remove, with the `etag` of exactly that state. */
  async preview(id) {
    const answer = await this._send("GET", `${CHATS}/${id}/deletion-preview`);
    return { ...(await answer.json()), etag: answer.headers.get("ETag") };
  }

  /**
   * Deletes the chat only in the state of `etag`; a retry with the same `idempotencyKey` gets the first response again.
   * The receipt keeps `exportSha256`, the digest of the export that was saved.
   */
  delete(id, { etag, idempotencyKey, evict, exportSha256 }) {
    const headers = { "If-Match": etag, "Idempotency-Key": idempotencyKey };
    const fields = { on_active: evict ? "evict" : null, export_sha256: exportSha256 };
    return this._json("DELETE", `${CHATS}/${id}` + query(fields), { headers });
  }

  /** Moves the chat to the trash, only in the state of `etag`; a retry with the same key gets the first response again. */
  moveToTrash(id, { etag, idempotencyKey, evict }) {
    const headers = { "If-Match": etag, "Idempotency-Key": idempotencyKey };
    return this._json("POST", `${CHATS}/${id}/trash` + query({ on_active: evict ? "evict" : null }), { headers });
  }

  /** Returns the chats in the trash, the latest first. */
  trash(limit) {
    return this._json("GET", TRASH + query({ limit }));
  }

  /** Returns a chat that is in the trash. */
  trashed(id) {
    return this._json("GET", `${TRASH}/${id}`);
  }

  restore(id) {
    return this._json("POST", `${TRASH}/${id}/restore`);
  }

  /** Deletes a chat in the trash for good; a retry with the same `idempotencyKey` gets the first response again. */
  deleteTrashed(id, { idempotencyKey }) {
    return this._json("DELETE", `${TRASH}/${id}`, { headers: { "Idempotency-Key": idempotencyKey } });
  }

  /** Returns the receipt of a deleted chat. */
  receipt(id) {
    return this._json("GET", `/api/v1/deletions/${id}`);
  }

  /** Returns the seq of the last entry of the log. */
  async logHead() {
    return (await this._json("GET", LOG + query({ after: Number.MAX_SAFE_INTEGER, limit: 1 }))).head;
  }

  async logTicket() {
    return (await this._json("POST", `${LOG}/tickets`)).ticket;
  }

  /** Returns the address of the live log, for whoever has the ticket. */
  logAddress(after, ticket) {
    return LOG + query({ after, ticket });
  }

  /** Returns the whole chat as a file, with the `etag` of the exported state. */
  async export(id, format) {
    const answer = await this._send("GET", `${CHATS}/${id}/export` + query({ format }));
    try {
      const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition"))[1];
      return { blob: await answer.blob(), name, etag: answer.headers.get("ETag") };
    } catch {
      throw new Problem(0, { detail: "The export was interrupted and is not complete. Try again." });
    }
  }

  async _json(method, path, options) {
    return (await this._send(method, path, options)).json();
  }

  async _send(method, path, { body, file, headers = {} } = {}) {
    if (!SENDABLE.test(this._key)) {
      const problem = new Problem(401, { detail: "This is not an API key: it contains characters that no API key has." });
      this._onKeyRejected(problem);
      throw problem;
    }
    let answer;
    try {
      answer = await fetch(path, {
        method,
        headers: { "X-API-Key": this._key, ...(body && { "Content-Type": "application/json" }), ...headers },
        body: file ?? (body && JSON.stringify(body)),
      });
    } catch {
      throw new Problem(0, { detail: "The service did not answer. Is it running, and are you online?" });
    }
    if (answer.ok) return answer;
    const problem = await readProblem(answer);
    if (problem.status === 401) this._onKeyRejected(problem);
    throw problem;
  }
}

async function readProblem(answer) {
  const members = await answer.json().catch(() => ({}));
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  return new Problem(answer.status, { detail: `The service answered with status ${answer.status}.`, ...members }, retryAfter);
}

function query(fields) {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
