"""A tenant's view of the application in a test."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # processes that need only TenantAccess do not load them
    from flask import Flask
    from werkzeug.test import TestResponse

CHATS = "/api/v1/chats"


@dataclass(frozen=True)
class TenantAccess:
    tenant_id: str
    key: str
    key_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key}


class Client:
    """Sends requests with a tenant's key."""

    def __init__(self, app: "Flask", access: TenantAccess) -> None:
        self.app = app
        self.access = access
        self._client = app.test_client()

    def send(self, method: str, path: str, **kwargs: Any) -> "TestResponse":
        headers = {**self.access.headers, **kwargs.pop("headers", {})}
        return self._client.open(path, method=method, headers=headers, **kwargs)

    def new_chat(self, *contents: str, **fields: Any) -> str:
        """Create a chat with messages and return its id."""
        chat_id: str = self.send("POST", CHATS, json=fields).get_json()["id"]
        if contents:
            batch = {"messages": [{"content": content} for content in contents]}
            assert self.send("POST", f"{CHATS}/{chat_id}/messages", json=batch).status_code == 201
        return chat_id
