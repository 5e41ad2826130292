"""What a primary does not know to be committed yet: a chat is said to be missing only when a majority confirms it."""

import time
from contextlib import ExitStack, closing
from pathlib import Path

from pymongo.write_concern import WriteConcern

from chat_service.app import create_app
from chat_service.embedded.replica_set import EmbeddedReplicaSet
from chat_service.repository.database import Database
from chat_service.repository.deadline import set_deadline
from chat_service.settings import Settings
from tests.client import CHATS, Client
from tests.conftest import tenant_maker
from tests.pause import paused
from tests.wait import wait_until


def test_a_chat_is_not_said_to_be_missing_before_that_is_sure(tmp_path: Path) -> None:
    """Written, and not yet with a majority: 503, and not 404; then it is there. As after an election, for a moment."""
    with EmbeddedReplicaSet(tmp_path) as replica_set, closing(Database(replica_set.uri)) as database:
        database.prepare()
        alice = Client(create_app(Settings("unused", 2**20, 8, "json"), database), tenant_maker(database)())
        chat_id, copied = alice.new_chat(), "c0ffee00-1111-4222-8333-444444444444"
        document = database.chats.find_one({"_id.chat_id": chat_id})
        document["_id"]["chat_id"] = copied
        secondaries = [member for member in replica_set.members if member is not replica_set.primary()]
        with ExitStack() as stack:
            for member in secondaries:
                stack.enter_context(paused(member.process.pid))
            database.database.get_collection("chats", write_concern=WriteConcern(w=1)).insert_one(document)
            set_deadline(time.monotonic() + 1)
            try:
                answer = alice.send("GET", f"{CHATS}/{copied}")
            finally:
                set_deadline(None)
            assert (answer.status_code, answer.get_json()["code"]) == (503, "database_unavailable")
        wait_until(lambda: alice.send("GET", f"{CHATS}/{copied}").status_code == 200)
        missing = copied.replace("4444", "5555")
        assert alice.send("GET", f"{CHATS}/{missing}").status_code == 404
