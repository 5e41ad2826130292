"""One Idempotency-Key in concurrent requests, on a real mongod: it is done once, and all get the same answer."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from flask import Flask

from chat_service.app import create_app
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.settings import Settings
from tests.client import CHATS, Client, TenantAccess

CALLERS = 6
ROUNDS = 25


@pytest.fixture
def either_database(database: Database) -> Database:
    """The database on a real mongod; mongomock cannot race."""
    return database


@pytest.fixture
def app(database: Database) -> Flask:
    return create_app(Settings("unused", 2**20, threads=8, log_format="json"), database)


def at_once(
    app: Flask, access: TenantAccess, method: str, path: str, key: str, **kwargs: Any
) -> set[tuple[int, bytes]]:
    """Send the same request from several threads at the same moment; return the distinct answers."""
    barrier = Barrier(CALLERS)

    def send(_: int) -> tuple[int, bytes]:
        client = Client(app, access)
        barrier.wait()
        answer = client.send(method, path, headers={"Idempotency-Key": key, "X-Request-ID": "same"}, **kwargs)
        return answer.status_code, answer.data

    with ThreadPoolExecutor(CALLERS) as pool:
        return set(pool.map(send, range(CALLERS)))


def test_a_post_is_done_once(app: Flask, alice: Client) -> None:
    path = f"{CHATS}/{alice.new_chat()}/messages"
    for number in range(ROUNDS):
        answers = at_once(app, alice.access, "POST", path, f"key-{number}", json={"content": f"{number}"})
        assert {status for status, _ in answers} == {201}
        assert len(answers) == 1
    contents = [message["content"] for message in alice.send("GET", path).get_json()["items"]]
    assert contents == [f"{number}" for number in range(ROUNDS)]


def test_a_chat_is_created_once(app: Flask, alice: Client, database: Database) -> None:
    for number in range(ROUNDS):
        answers = at_once(app, alice.access, "POST", CHATS, f"key-{number}", json={})
        assert {status for status, _ in answers} == {201}
        assert len(answers) == 1
    assert database.chats.count_documents({}) == ROUNDS


def test_a_delete_is_done_once_and_every_caller_gets_the_200(app: Flask, alice: Client, database: Database) -> None:
    for number in range(ROUNDS):
        path = f"{CHATS}/{alice.new_chat('a', 'b')}"
        answers = at_once(app, alice.access, "DELETE", path, f"key-{number}")
        assert {status for status, _ in answers} == {200}
        assert len(answers) == 1
    assert database.deletions.count_documents({}) == ROUNDS
    assert list(Checks(database).run()) == []


def test_another_request_under_the_key_is_refused_while_the_first_runs(app: Flask, alice: Client) -> None:
    """One of two different requests is done and the other refused, never both."""
    for number in range(ROUNDS):
        chat_ids = [alice.new_chat("a"), alice.new_chat("b")]
        barrier = Barrier(2)

        def delete(chat_id: str, key: str = f"key-{number}", barrier: Barrier = barrier) -> int:
            client = Client(app, alice.access)
            barrier.wait()
            return client.send("DELETE", f"{CHATS}/{chat_id}", headers={"Idempotency-Key": key}).status_code

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(delete, chat_ids)) == [200, 422]
