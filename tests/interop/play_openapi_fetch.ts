// A client as openapi-typescript and openapi-fetch make it, and the day of a chat with it.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi-typescript.ts";

type Code = components["schemas"]["Problem"]["code"];

const [baseUrl, key, busy] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl, headers: { "X-API-Key": key } });

// Create: nothing is required, and metadata is any JSON.
const metadata = { customer: 42, tags: ["a", { deep: null }] };
const made = await client.POST("/api/v1/chats", { body: { title: "From a generated client", metadata } });
assert.equal(made.response.status, 201);
const chat = made.data!;
assert.deepEqual(chat.metadata, metadata);
const path = { chat_id: chat.id };

// Post: one, and several.
const one = await client.POST("/api/v1/chats/{chat_id}/messages", { params: { path }, body: { content: "one" } });
assert.equal(one.data!.messages[0]!.role, "user");
const messages = [{ content: "two", sender_id: "ada" }, { content: "three", role: "assistant" as const }];
await client.POST("/api/v1/chats/{chat_id}/messages", { params: { path }, body: { messages } });

// Page.
const contents: string[] = [];
let cursor: string | null | undefined;
do {
  const query = cursor ? { limit: 2, cursor } : { limit: 2 };
  const page = await client.GET("/api/v1/chats/{chat_id}/messages", { params: { path, query } });
  contents.push(...page.data!.items.map((message) => message.content));
  cursor = page.data!.next_cursor;
} while (cursor);
assert.deepEqual(contents, ["one", "two", "three"]);
const chats = await client.GET("/api/v1/chats", { params: { query: { limit: 200 } } });
assert.ok(chats.data!.items.some(({ id }) => id === chat.id));

// Export, whole and as lines; the lines come in again.
const exported = await client.GET("/api/v1/chats/{chat_id}/export", { params: { path } });
const whole = exported.data as components["schemas"]["Export"];
assert.equal(whole.messages.length, whole.chat.message_count);
const lines = await client.GET("/api/v1/chats/{chat_id}/export", {
  params: { path, query: { format: "ndjson" } },
  parseAs: "text",
});
const imported = await client.POST("/api/v1/chats/import", {
  body: lines.data as string,
  bodySerializer: (body) => body,
  headers: { "Content-Type": "application/x-ndjson" },
});
assert.equal(imported.data!.message_count, 3);

// Preview, a chat that somebody is in, delete, and its receipt.
const preview = await client.GET("/api/v1/chats/{chat_id}/deletion-preview", { params: { path } });
assert.equal(preview.data!.mode, "inline");
const refused = await client.DELETE("/api/v1/chats/{chat_id}", { params: { path: { chat_id: busy } } });
assert.equal(refused.response.status, 409);
assert.equal(refused.error!.code satisfies Code, "active_connections");
const header = { "Idempotency-Key": chat.id };
const deleted = await client.DELETE("/api/v1/chats/{chat_id}", { params: { path, header } });
assert.equal(deleted.data!.success, true);
const receipt = await client.GET("/api/v1/deletions/{chat_id}", { params: { path } });
assert.equal(receipt.data!.message_count, 3);

// Bulk, and an error by its code.
const bulk = await client.POST("/api/v1/chats/delete", { body: { chat_ids: [imported.data!.id, chat.id] } });
assert.equal(bulk.data!.successful[0]!.chat_id, imported.data!.id);
assert.equal(bulk.data!.failed[0]!.code, "chat_not_found");
const gone = await client.GET("/api/v1/chats/{chat_id}", { params: { path } });
assert.equal(gone.error!.code satisfies Code, "chat_not_found");
