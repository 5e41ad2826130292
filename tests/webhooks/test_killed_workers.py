"""kill -9 of workers that deliver webhooks: every entry is delivered nevertheless, and always under one id."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import stop
from chat_service.repository.database import Database
from tests.client import Client
from tests.forked import start
from tests.wait import wait_until
from tests.webhooks.conftest import KEY
from tests.webhooks.receiver import Receiver, _Handler
from tests.webhooks.test_webhooks import create, delete_chats, deliveries

CHATS_OF_A_ROUND, KILLS = 60, 4


def slowly(handler: _Handler) -> None:
    """Accept the message after a moment, so that a kill finds deliveries under way."""
    time.sleep(0.1)
    handler.send_response(204)
    handler.end_headers()


@contextmanager
def worker(mongod: EmbeddedMongod) -> Iterator[int]:
    environment = {"WEBHOOK_SECRET_KEY": KEY, "WEBHOOK_PRIVATE_NETWORKS": "on", "MONGODB_URI": mongod.uri}
    process = start("flask", "--app", "wsgi", "jobs", "run", **environment)
    try:
        yield process.pid
    finally:
        stop(process, 10)


@pytest.mark.soak
def test_nothing_is_lost(mongod: EmbeddedMongod, database: Database, governor: Client) -> None:
    """A delivery under way is repeated under the same id when its claim is over."""
    with Receiver(slowly) as receiver:
        webhook = create(governor, receiver.url)
        for _ in range(KILLS):
            before = len(receiver.messages)
            delete_chats(governor, CHATS_OF_A_ROUND)
            with worker(mongod) as pid:
                receiver.wait_for(before + 20, 60)
                os.kill(pid, signal.SIGKILL)
        with worker(mongod):
            wait_until(lambda: database.deliveries.count_documents({"state": "pending"}) == 0, 120)
            wait_until(
                lambda: (
                    database.deliveries.count_documents({}) == 2 * CHATS_OF_A_ROUND * KILLS
                    and database.deliveries.count_documents({"state": "delivered"}) == 2 * CHATS_OF_A_ROUND * KILLS
                ),
                120,
            )
    ids_by_seq = {message.json["data"]["seq"]: message.id for message in receiver.messages}
    assert sorted(ids_by_seq) == list(range(1, 2 * CHATS_OF_A_ROUND * KILLS + 1)), "all is told"
    assert all(ids_by_seq[message.json["data"]["seq"]] == message.id for message in receiver.messages), (
        "each under one id"
    )
    assert len({message.id for message in receiver.messages}) == len(ids_by_seq)
    assert deliveries(governor, webhook)[0]["state"] == "delivered"
