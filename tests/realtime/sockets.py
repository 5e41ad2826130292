"""A blocking WebSocket client, and the running service as one tenant sees it."""

import json
from contextlib import ExitStack
from typing import Any, Self

import requests
import websocket

from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn

WAIT_SECONDS = 15.0


class Peer:
    """One connection of a client."""

    def __init__(self, service: ForkedGunicorn, path: str, access: TenantAccess | None = None, **options: Any) -> None:
        """Connect; `path` is the chat's id and may have a query."""
        chat_id, _, query = path.partition("?")
        url = f"ws://127.0.0.1:{service.port}{CHATS}/{chat_id}/ws{'?' * bool(query)}{query}"
        options = {"header": access.headers if access else {}, "suppress_origin": True, **options}
        self.socket = websocket.create_connection(url, WAIT_SECONDS, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Cut the connection without a close frame."""
        self.socket.shutdown()

    def create(self, content: str, **more: Any) -> None:
        """Post a message over the socket."""
        self.send(type="message.create", content=content, **more)

    def send(self, **frame: Any) -> None:
        self.socket.send(json.dumps(frame))

    def frame(self) -> dict[str, Any]:
        """Return the next frame; a close fails the test."""
        opcode, data = self.socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, (opcode, data)
        frame: dict[str, Any] = json.loads(data)
        return frame

    def contents(self, number: int) -> list[str]:
        """Return the contents of the next messages, and ignore `chat.updated` frames between them."""
        contents: list[str] = []
        while len(contents) < number:
            frame = self.frame()
            if frame["type"] == "message.created":
                contents.append(frame["message"]["content"])
            else:
                assert frame["type"] == "chat.updated", frame
        return contents

    def is_quiet(self, seconds: float = 0.3) -> bool:
        """Return whether no frame arrives for `seconds`."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv_data()
        except websocket.WebSocketTimeoutException:
            return True
        finally:
            self.socket.settimeout(WAIT_SECONDS)
        return False

    def closed(self) -> tuple[int, str]:
        """Wait for the close, and ignore all frames before it; return its code and reason."""
        while True:
            opcode, data = self.socket.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2]), data[2:].decode()


class Service:
    """The running service, as one tenant sees it."""

    def __init__(self, gunicorn: ForkedGunicorn, access: TenantAccess, database: Database) -> None:
        self.gunicorn, self.access, self.database = gunicorn, access, database
        self.peers = ExitStack()

    def chat(self, *contents: str) -> str:
        chat_id = Chats(self.database).create(self.access.tenant_id, "title", {}).id
        if contents:
            self.post(chat_id, *contents)
        return chat_id

    def post(self, chat_id: str, *contents: str) -> None:
        """Post over HTTP."""
        batch = {"messages": [{"content": content} for content in contents]}
        assert self.send("POST", f"{chat_id}/messages", json=batch).status_code == 201

    def send(self, method: str, path: str, **options: object) -> requests.Response:
        url = f"http://127.0.0.1:{self.gunicorn.port}{CHATS}/{path}"
        return requests.request(method, url, headers=self.access.headers, timeout=30, **options)

    def connect(self, path: str, **options: object) -> Peer:
        return self.peers.enter_context(Peer(self.gunicorn, path, self.access, **options))
