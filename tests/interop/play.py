"""A chat from its creation to its deletion, with a client that openapi-python-client has generated."""

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

base_url, key, busy_chat_id = sys.argv[1:]
client = AuthenticatedClient(base_url, token=key, prefix="", auth_header_name="X-API-Key")

# Create: nothing is required, and metadata is any JSON.
metadata = {"customer": 42, "tags": ["a", {"deep": None}]}
new_chat = ChatIn(title="From a generated client", metadata=Metadata.from_dict(metadata))
created = create_chat.sync_detailed(client=client, body=new_chat)
assert created.status_code == 201
chat = created.parsed
assert chat.metadata.to_dict() == metadata
chat_id = UUID(str(chat.id))

# Post one message, and several.
posted = post_messages.sync(chat_id, client=client, body=MessageIn(content="one"))
assert posted.messages[0].role == "user"
more_messages = [MessageIn(content="two", sender_id="ada"), MessageIn(content="three", role=MessageInRole.ASSISTANT)]
post_messages.sync(chat_id, client=client, body=MessagesIn(messages=more_messages))

# Read page by page.
contents, cursor = [], UNSET
while cursor is not None:
    page = list_messages.sync(chat_id, client=client, limit=2, cursor=cursor)
    contents += [message.content for message in page.items]
    cursor = page.next_cursor
assert contents == ["one", "two", "three"]
assert any(str(item.id) == str(chat_id) for item in list_chats.sync(client=client, limit=200).items)

# Export as one document and as lines, and import the lines.
export = export_chat.sync(chat_id, client=client)
assert isinstance(export, Export)
assert len(export.messages) == export.chat.message_count == 3
lines = client.get_httpx_client().get(f"/api/v1/chats/{chat_id}/export", params={"format": "ndjson"})
imported = import_chat.sync(client=client, body=File(payload=BytesIO(lines.content)))
assert imported.message_count == 3

# Preview, a delete that a connection prevents, a delete, and its receipt.
assert preview_deletion.sync(chat_id, client=client).mode == PreviewOutMode.INLINE
refused = delete_chat.sync_detailed(UUID(busy_chat_id), client=client)
assert (refused.status_code, refused.parsed.code) == (409, ProblemCode.ACTIVE_CONNECTIONS)
assert delete_chat.sync(chat_id, client=client, idempotency_key=str(chat_id)).success is True
assert get_deletion.sync(chat_id, client=client).message_count == 3

# Bulk delete, and an error by its code.
report = delete_chats.sync(client=client, body=BulkIn(chat_ids=[str(imported.id), str(chat_id)]))
assert [str(deletion.chat_id) for deletion in report.successful] == [str(imported.id)]
assert [failure.code for failure in report.failed] == ["chat_not_found"]
problem = get_chat.sync(chat_id, client=client)
assert isinstance(problem, Problem)
assert problem.code == ProblemCode.CHAT_NOT_FOUND
