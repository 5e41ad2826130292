"""The bad-input corpus for WebSockets: a bad handshake gets a status, a client without access gets a close code."""

import json
import socket
from typing import NamedTuple

import pytest
import requests

from tests.client import CHATS
from tests.live.test_wrong_requests import exchange
from tests.realtime.sockets import Peer

UNKNOWN = "00000000-0000-4000-8000-00000000dead"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
VERSION = "Sec-WebSocket-Version: 13"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
GOOD = (*UPGRADE, VERSION, KEY)


class Refused(NamedTuple):
    """A handshake that gets no 101."""

    headers: tuple[str, ...]
    status: int
    code: str
    method: str = "GET"
    target: str = f"{CHATS}/@CHAT@/ws"


REFUSED = {
    "no upgrade": Refused((), 426, "upgrade_required"),
    "an upgrade of nothing": Refused(("Connection: Upgrade",), 426, "upgrade_required"),
    "upgrade without connection": Refused(("Upgrade: websocket", VERSION, KEY), 426, "upgrade_required"),
    "an upgrade to something else": Refused(("Connection: Upgrade", "Upgrade: h2c"), 426, "upgrade_required"),
    "version 8": Refused((*UPGRADE, "Sec-WebSocket-Version: 8", KEY), 426, "upgrade_required"),
    "no version": Refused((*UPGRADE, KEY), 426, "upgrade_required"),
    "no Sec-WebSocket-Key": Refused((*UPGRADE, VERSION), 400, "bad_request"),
    "a short Sec-WebSocket-Key": Refused((*UPGRADE, VERSION, "Sec-WebSocket-Key: eA=="), 400, "bad_request"),
    "another origin": Refused((*GOOD, "Origin: https://evil.example"), 403, "forbidden_origin"),
    "the null origin": Refused((*GOOD, "Origin: null"), 403, "forbidden_origin"),
    "an origin that begins like ours": Refused((*GOOD, "Origin: http://x.evil.example"), 403, "forbidden_origin"),
    "our origin with a port": Refused((*GOOD, "Origin: http://x:81"), 403, "forbidden_origin"),
    "an invalid origin": Refused((*GOOD, "Origin: http://[::1"), 403, "forbidden_origin"),
    "an empty origin": Refused((*GOOD, "Origin:"), 403, "forbidden_origin"),
    "another address": Refused(GOOD, 404, "not_found", target=f"{CHATS}/@CHAT@"),
    "a slash at the end": Refused(GOOD, 404, "not_found", target=f"{CHATS}/@CHAT@/ws/"),
    "a POST": Refused(GOOD, 405, "method_not_allowed", method="POST"),
}

CLOSED = {
    "no key": ("", None, (4401, "invalid_api_key")),
    "a wrong key": ("", "wrong", (4401, "invalid_api_key")),
    "the key in the query": ("?X-API-Key=@GOOD@", None, (4401, "invalid_api_key")),
    "the key as a ticket": ("?ticket=@GOOD@", None, (4401, "invalid_api_key")),
    "an empty ticket": ("?ticket=", None, (4401, "invalid_api_key")),
    "an operator as a ticket": ("?ticket[$ne]=1", None, (4401, "invalid_api_key")),
    "a ticket of bytes": ("?ticket=%ff%00%0d%0aX:1", None, (4401, "invalid_api_key")),
    "an unknown field": ("?what=1", "@GOOD@", (4400, "validation_error")),
    "many fields": ("?" + "&".join(f"a{number}=1" for number in range(50)), "@GOOD@", (4400, "validation_error")),
    "a negative place": ("?after=-1", "@GOOD@", (4400, "validation_error")),
    "a place of other digits": ("?after=%EF%BC%91", "@GOOD@", (4400, "validation_error")),
    "a place beyond 64 bits": ("?after=9999999999999999999", "@GOOD@", (4400, "validation_error")),
    "no name": ("?name=", "@GOOD@", (4400, "validation_error")),
    "a name that is too long": (f"?name={'x' * 201}", "@GOOD@", (4400, "validation_error")),
    "a name with NUL": ("?name=a%00", "@GOOD@", (4400, "validation_error")),
    "two places": ("?after=1&after=1", "@GOOD@", (4400, "validation_error")),
}


def handshake(service, method: str, target: str, *headers: str, key: str | None = "@GOOD@") -> bytes:
    key = None if key is None else key.replace("@GOOD@", service.access.key)
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers, *([] if key is None else [f"X-API-Key: {key}"])]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED)
def test_a_bad_handshake_gets_a_problem(service, wrong) -> None:
    target = wrong.target.replace("@CHAT@", service.chat())
    answer = exchange(service.gunicorn.port, handshake(service, wrong.method, target, *wrong.headers))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (int(head.split()[1]), json.loads(body)["code"]) == (wrong.status, wrong.code)
    assert b"application/problem+json" in head.lower()
    if wrong.status == 426:
        assert b"upgrade: websocket" in head.lower() or b"sec-websocket-version: 13" in head.lower()
    assert service.database.presence.count_documents({}) == 0


@pytest.mark.parametrize(("query", "key", "close"), CLOSED.values(), ids=CLOSED)
def test_a_client_without_access_gets_a_close(service, query, key, close) -> None:
    """101 and then the close code: a browser hides from its page why a handshake was refused."""
    target = f"{CHATS}/{service.chat()}/ws{query.replace('@GOOD@', service.access.key)}"
    with socket.create_connection(("127.0.0.1", service.gunicorn.port), 10) as connection:
        connection.sendall(handshake(service, "GET", target, *GOOD, key=key))
        received = b""
        while part := connection.recv(4096):
            received += part
            head, _, frames = received.partition(b"\r\n\r\n")
            if len(frames) > 4:
                connection.sendall(b"\x88\x80\0\0\0\0")
    assert head.startswith(b"HTTP/1.1 101")
    assert (int.from_bytes(frames[2:4]), frames[4 : 2 + frames[1]].decode()) == close
    assert service.database.presence.count_documents({}) == 0


def test_a_connection_is_listed_by_its_name(service) -> None:
    """In any script; a connection that gave no name has none."""
    chat_id = service.chat()
    url = f"http://127.0.0.1:{service.gunicorn.port}{CHATS}/{chat_id}/connections"
    named = f"{chat_id}?name=Zo%C3%AB%20%F0%9F%8E%89"
    with Peer(service.gunicorn, named, service.access), Peer(service.gunicorn, chat_id, service.access):
        connections = requests.get(url, headers=service.access.headers, timeout=10).json()["items"]
    assert sorted(str(connection["name"]) for connection in connections) == ["None", "Zoë 🎉"]
