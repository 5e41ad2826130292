"""DELETE of a chat by Eve with a hook, as Eve's users write it. It is not atomic: Eve has no transactions.

The documents have Eve's own form, with an id and the fields that Eve adds. A delete is two commands and no receipt:
Eve finds and removes the chat, then the hook removes the messages.
"""

import os
from typing import Any

from eve import Eve
from eve.auth import BasicAuth
from flask import request

TENANTS = {os.environ["API_KEY"]: os.environ["TENANT_ID"]}

UUID_PATTERN = 'regex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")'

SETTINGS = {
    "MONGO_URI": os.environ["MONGODB_URI"],
    "MONGO_WRITE_CONCERN": {"w": "majority"},
    "URL_PREFIX": "api/v1",
    "IF_MATCH": False,
    "RENDERERS": ["eve.render.JSONRenderer"],
    "DOMAIN": {
        "chats": {
            "schema": {"_id": {"type": "string"}, "title": {"type": "string"}},
            "item_url": UUID_PATTERN,
            "item_methods": ["GET", "DELETE"],
            "auth_field": "tenant_id",
        },
        "messages": {
            "schema": {"chat_id": {"type": "string"}, "content": {"type": "string"}},
            "auth_field": "tenant_id",
        },
    },
}


class KeyAuth(BasicAuth):
    """Finds the tenant of an API key; Eve adds the tenant's id to each query."""

    def authorized(self, allowed_roles: Any, resource: str, method: str) -> bool:  # noqa: ARG002 - Eve's
        """Tell whether the caller's key is known."""
        tenant_id = TENANTS.get(request.headers.get("X-API-Key", ""))
        self.set_request_auth_value(tenant_id)
        return tenant_id is not None


app = Eve(auth=KeyAuth, settings=SETTINGS)


def delete_messages(chat: dict[str, Any]) -> None:
    """Remove the messages of a chat that Eve has just removed."""
    app.data.driver.db.messages.delete_many({"tenant_id": app.auth.get_request_auth_value(), "chat_id": chat["_id"]})


app.on_deleted_item_chats += delete_messages
