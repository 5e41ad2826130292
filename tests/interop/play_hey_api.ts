// A client as @hey-api/openapi-ts makes it, and the day of a chat with it.
import assert from "node:assert/strict";
import { client } from "./hey-api/client.gen.ts";
import * as api from "./hey-api/sdk.gen.ts";
import type { Export, Problem } from "./hey-api/types.gen.ts";

const [baseUrl, key, busy] = process.argv.slice(2) as [string, string, string];
client.setConfig({ baseUrl, headers: { "X-API-Key": key } });

// Create: nothing is required, and metadata is any JSON.
const metadata = { customer: 42, tags: ["a", { deep: null }] };
const made = await api.createChat({ body: { title: "From a generated client", metadata } });
assert.equal(made.response!.status, 201);
const chat = made.data!;
assert.deepEqual(chat.metadata, metadata);
const path = { chat_id: chat.id };

// Post: one, and several.
const one = await api.postMessages({ path, body: { content: "one" } });
assert.equal(one.data!.messages[0]!.role, "user");
const messages = [{ content: "two", sender_id: "ada" }, { content: "three", role: "assistant" as const }];
await api.postMessages({ path, body: { messages } });

// Page.
const contents: string[] = [];
let cursor: string | null | undefined;
do {
  const page = await api.listMessages({ path, query: cursor ? { limit: 2, cursor } : { limit: 2 } });
  contents.push(...page.data!.items.map((message) => message.content));
  cursor = page.data!.next_cursor;
} while (cursor);
assert.deepEqual(contents, ["one", "two", "three"]);
const chats = await api.listChats({ query: { limit: 200 } });
assert.ok(chats.data!.items.some(({ id }) => id === chat.id));

// Export, whole and as lines; the lines come in again.
const whole = (await api.exportChat({ path })).data as Export;
assert.equal(whole.messages.length, whole.chat.message_count);
const lines = (await api.exportChat({ path, query: { format: "ndjson" }, parseAs: "text" })).data as unknown as string;
const imported = await api.importChat({ body: new Blob([lines]) });
assert.equal(imported.data!.message_count, 3);

// Preview, a chat that somebody is in, delete, and its receipt.
const preview = await api.previewDeletion({ path });
assert.equal(preview.data!.mode, "inline");
const refused = await api.deleteChat({ path: { chat_id: busy } });
assert.equal(refused.response!.status, 409);
assert.equal((refused.error as Problem).code, "active_connections");
const deleted = await api.deleteChat({ path, headers: { "Idempotency-Key": chat.id } });
assert.equal(deleted.data!.success, true);
const receipt = await api.getDeletion({ path });
assert.equal(receipt.data!.message_count, 3);

// Bulk, and an error by its code.
const bulk = await api.deleteChats({ body: { chat_ids: [imported.data!.id, chat.id] } });
assert.equal(bulk.data!.successful[0]!.chat_id, imported.data!.id);
assert.equal(bulk.data!.failed[0]!.code, "chat_not_found");
const gone = await api.getChat({ path });
assert.equal((gone.error as Problem).code satisfies Problem["code"], "chat_not_found");
