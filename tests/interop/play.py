"""The day of a chat with a client as openapi-python-client makes it."""

import sys
from io import BytesIO
from uuid import UUID

from chat_client import AuthenticatedClient
from chat_client.api.chats import create_chat, get_chat, list_chats
from chat_client.api.deletions import delete_chat, delete_chats, get_deletion, preview_deletion
from chat_client.api.exports import export_chat, import_chat
from chat_client.api.messages import list_messages, post_messages
from chat_client.models import (
    BulkIn,
    ChatIn,
    Export,
    MessageIn,
    MessageInRole,
    MessagesIn,
    Metadata,
    PreviewOutMode,
    Problem,
    ProblemCode,
)
from chat_client.types import UNSET, File

base_url, key, busy = sys.argv[1:]
client = AuthenticatedClient(base_url, token=key, prefix="", auth_header_name="X-API-Key")

# Create: nothing is required, and metadata is any JSON.
metadata = {"customer": 42, "tags": ["a", {"deep": None}]}
new = ChatIn(title="From a generated client", metadata=Metadata.from_dict(metadata))
made = create_chat.sync_detailed(client=client, body=new)
assert made.status_code == 201
chat = made.parsed
assert chat.metadata.to_dict() == metadata
chat_id = UUID(str(chat.id))

# Post: one, and several.
one = post_messages.sync(chat_id, client=client, body=MessageIn(content="one"))
assert one.messages[0].role == "user"
several = [MessageIn(content="two", sender_id="ada"), MessageIn(content="three", role=MessageInRole.ASSISTANT)]
post_messages.sync(chat_id, client=client, body=MessagesIn(messages=several))

# Page.
contents, cursor = [], UNSET
while cursor is not None:
    page = list_messages.sync(chat_id, client=client, limit=2, cursor=cursor)
    contents += [message.content for message in page.items]
    cursor = page.next_cursor
assert contents == ["one", "two", "three"]
assert any(str(item.id) == str(chat_id) for item in list_chats.sync(client=client, limit=200).items)

# Export, whole and as lines; the lines come in again.
whole = export_chat.sync(chat_id, client=client)
assert isinstance(whole, Export)
assert len(whole.messages) == whole.chat.message_count == 3
lines = client.get_httpx_client().get(f"/api/v1/chats/{chat_id}/export", params={"format": "ndjson"})
imported = import_chat.sync(client=client, body=File(payload=BytesIO(lines.content)))
assert imported.message_count == 3

# Preview, a chat that somebody is in, delete, and its receipt.
assert preview_deletion.sync(chat_id, client=client).mode == PreviewOutMode.INLINE
refused = delete_chat.sync_detailed(UUID(busy), client=client)
assert (refused.status_code, refused.parsed.code) == (409, ProblemCode.ACTIVE_CONNECTIONS)
assert delete_chat.sync(chat_id, client=client, idempotency_key=str(chat_id)).success is True
assert get_deletion.sync(chat_id, client=client).message_count == 3

# Bulk, and an error by its code.
bulk = delete_chats.sync(client=client, body=BulkIn(chat_ids=[str(imported.id), str(chat_id)]))
assert [str(done.chat_id) for done in bulk.successful] == [str(imported.id)]
assert [failure.code for failure in bulk.failed] == ["chat_not_found"]
gone = get_chat.sync(chat_id, client=client)
assert isinstance(gone, Problem)
assert gone.code == ProblemCode.CHAT_NOT_FOUND
