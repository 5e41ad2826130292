"""A new primary may not know yet what the old one has confirmed: nothing is read before a majority confirms it."""

import time
from contextlib import closing
from pathlib import Path

from chat_service.app import create_app
from chat_service.embedded.replica_set import EmbeddedReplicaSet
from chat_service.repository.database import Database
from chat_service.repository.deadline import set_deadline
from chat_service.settings import Settings
from tests.client import CHATS, Client
from tests.conftest import tenant_maker
from tests.wait import wait_until

FAIL_POINT = {"configureFailPoint": "stopReplProducer"}


def test_nothing_is_read_from_a_primary_that_no_majority_has_confirmed(tmp_path: Path) -> None:
    """While the other member only votes and does not replicate, reads get 503, not 404. Later the chat is there."""
    with (
        EmbeddedReplicaSet(tmp_path, parameters=("enableTestCommands=1",)) as replica_set,
        closing(Database(replica_set.uri)) as database,
    ):
        database.prepare()
        alice = Client(create_app(Settings("unused", 2**20, 8, "json"), database), tenant_maker(database)())
        chat_id = alice.new_chat("a")
        path = f"{CHATS}/{chat_id}"
        primary = replica_set.primary()
        others = [member for member in replica_set.members if member is not primary]
        for member in others:
            member.command({**FAIL_POINT, "mode": "alwaysOn"})
        primary.kill()
        replica_set.primary(other_than=primary)
        wait_until(lambda: database.seconds_away() == 0, 20)
        for url_path in (path, f"{path}/messages", f"{path}/export", CHATS):
            set_deadline(time.monotonic() + 0.5)
            try:
                assert alice.send("GET", url_path).status_code == 503, url_path
            finally:
                set_deadline(None)
        for member in others:
            member.command({**FAIL_POINT, "mode": "off"})
        wait_until(lambda: alice.send("GET", path).status_code == 200, 20)
        assert alice.send("GET", f"{path}/messages").get_json()["items"][0]["content"] == "a"
