"""The corpus of wrong requests against the running service: each gets the right answer, and changes nothing."""

import json
import re
import socket
from dataclasses import dataclass

import pytest

from chat_service.api import problems
from chat_service.api.cursors import next_cursor
from chat_service.models import NewMessage, Role, Span
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from chat_service.repository.tenants import Tenants
from tests.conftest import empty
from tests.forked import ForkedGunicorn
from tests.live.corpus import WRONG
from tests.live.corpus.raw import CANARY, CHAT, FOREIGN, Wrong
from tests.live.corpus.transport import CUT_OFF

ANSWER_SECONDS = 10

CODES = {problem.code for problem in [*problems.DOMAIN.values(), *problems.HTTP.values()]}


@dataclass(frozen=True)
class Scene:
    """Two tenants with a chat each, the keys to put into requests, and the database's digest before any request."""

    port: int
    database: Database
    keys: dict[bytes, bytes]
    digest: str


@pytest.fixture(scope="module")
def scene(gunicorn: ForkedGunicorn, real_database: Database) -> Scene:
    empty(real_database)
    tenants, api_keys = Tenants(real_database), ApiKeys(real_database)
    ours, theirs = tenants.create("ours").id, tenants.create("theirs").id
    revoked, record = api_keys.create(ours, "revoked", ["delete"])
    api_keys.revoke(ours, record.id)
    keys = {
        b"@GOOD@": api_keys.create(ours, "good", ["read", "write", "delete"])[0],
        b"@READ@": api_keys.create(ours, "read", ["read"])[0],
        b"@OTHER@": api_keys.create(theirs, "other", ["read", "write", "delete"])[0],
        b"@REVOKED@": revoked,
    }
    for token in (b"@GOOD@", b"@READ@", b"@OTHER@"):
        api_keys.authenticate(keys[token])  # so that the key's use of today is stored before the digest is taken
    keys[b"@SWAPPED@"] = keys[b"@GOOD@"].swapcase()
    keys[b"@CURSOR@"] = next_cursor(Span(), 1, ours, CHAT)
    keys[b"@ALTERED_CURSOR@"] = keys[b"@CURSOR@"][:-3] + "AAA"
    keys[b"@FOREIGN_CURSOR@"] = next_cursor(Span(), 1, theirs, FOREIGN)
    for tenant, chat_id in ((ours, CHAT), (theirs, FOREIGN)):
        Chats(real_database).create(tenant, "a chat", {}, chat_id)
        Messages(real_database).append(tenant, chat_id, [NewMessage(Role.USER, "hello", None, {})] * 3)
    encoded = {token: key.encode() for token, key in keys.items()}
    return Scene(gunicorn.port, real_database, encoded, digest(real_database))


def digest(database: Database) -> str:
    md5: str = database.database.command("dbHash")["md5"]
    return md5


def exchange(port: int, request: bytes) -> bytes:
    """Send the bytes, and return the answer, or as much of it as arrives."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as connection:
        received = bytearray()
        try:
            connection.sendall(request)
            while not is_whole(received):
                part = connection.recv(2**16)
                if not part:
                    break
                received += part
        except ConnectionError:  # the service refused it, and closed the connection while it was being sent
            pass
    return bytes(received)


def is_whole(received: bytearray) -> bool:
    """Return whether the answer's head and all of its body have arrived."""
    head, separator, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(separator) and length is not None and len(body) >= int(length[1])


def send(scene: Scene, wrong: Wrong) -> bytes:
    request = wrong.request
    for token, key in scene.keys.items():
        request = request.replace(token, key)
    return exchange(scene.port, request)


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_it_is_refused_and_changes_nothing(scene: Scene, wrong: Wrong) -> None:
    """The answer is a problem with the status and the code of the table, and repeats no text of the caller."""
    answer = send(scene, wrong)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    problem = json.loads(body)
    assert (status, problem["code"]) == (wrong.status, wrong.code)
    assert (problem["status"], problem["success"]) == (wrong.status, False)
    assert b"application/problem+json" in head.lower()
    assert (b"\r\nallow:" in head.lower()) == (status == 405)
    assert {"type", "title", "detail", "request_id"} <= set(problem)
    assert problem["code"] in CODES
    assert CANARY.encode() not in answer
    assert b"traceback" not in answer.lower()
    assert digest(scene.database) == scene.digest


@pytest.mark.parametrize("request_bytes", CUT_OFF.values(), ids=CUT_OFF)
def test_what_is_cut_off_is_not_done(scene: Scene, request_bytes: bytes) -> None:
    """A request that is cut off changes nothing, even if the part that arrived would make sense."""
    with socket.create_connection(("127.0.0.1", scene.port), ANSWER_SECONDS) as connection:
        connection.sendall(request_bytes.replace(b"@GOOD@", scene.keys[b"@GOOD@"]))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):
            pass  # until the service has seen the end too
    assert digest(scene.database) == scene.digest


def test_there_are_at_least_two_hundred() -> None:
    assert len(WRONG) >= 200
    assert len({wrong.name for wrong in WRONG}) == len(WRONG)
