"""A bulk delete is repeated under its key while it runs, and a connection closes in between, over HTTP."""

import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from tests.soak.campaign import judge, service
from tests.soak.conftest import number
from tests.soak.connections import Sockets
from tests.soak.load import delete_all
from tests.soak.record import Record
from tests.soak.wire import Wire
from tests.wait import PATIENCE

CHATS_OF_ROUND = 40
"""Enough groups that the first run continues for a while after the group with the connected chat."""

GROUP_CHATS = 8
"""Size of a group: the connected chat is in the first group, which is deleted first."""

HELD_SECONDS = (0.005, 0.03)
AGAIN_SECONDS = (0.0, 0.02)
"""Time until the connection is closed, and from then until the request is repeated; the first run takes about 0.1 s."""


class Round:
    """Chats to delete with one request, and a connection to one of them."""

    def __init__(self, rng: random.Random, database: Database, tenant_id: str) -> None:
        self.records: list[Record] = []
        self.operation = f"bulk-{uuid.uuid4().hex}"
        self._rng = rng
        self._chat_ids = [self._create(Chats(database), tenant_id) for _ in range(CHATS_OF_ROUND)]
        self.connected = rng.choice(self._chat_ids[:GROUP_CHATS])

    def _create(self, chats: Chats, tenant_id: str) -> str:
        title, began = f"create-{uuid.uuid4().hex}", time.monotonic()
        chat_id = chats.create(tenant_id, title, {}).id
        self.records.append(Record("create", chat_id, title, began, time.monotonic(), 201))
        return chat_id

    def run(self, wires: list[Wire], sockets: Sockets, pool: ThreadPoolExecutor) -> None:
        """Connect, delete, disconnect, delete again while the first delete runs, and once more after both."""
        name, began = f"connect-{uuid.uuid4().hex}", time.monotonic()
        status, code, socket = sockets.open(self.connected)
        assert socket is not None
        self.records.append(Record("connect", self.connected, name, began, time.monotonic(), status, code))
        first = pool.submit(delete_all, wires[0], self._chat_ids, self.operation)
        time.sleep(self._rng.uniform(*HELD_SECONDS))
        began = time.monotonic()
        status, code = sockets.close(socket)
        self.records.append(Record("disconnect", self.connected, name, began, time.monotonic(), status, code))
        time.sleep(self._rng.uniform(*AGAIN_SECONDS))
        self.records += delete_all(wires[1], self._chat_ids, self.operation)
        self.records += first.result()
        self.records += delete_all(wires[0], self._chat_ids, self.operation)

    def was_contested(self) -> bool:
        """Whether the connected chat was refused, and deleted when the request was repeated."""
        statuses = {
            record.status for record in self.records if record.kind == "bulk" and record.chat_id == self.connected
        }
        return statuses >= {200, 409}


def test_a_few_repetitions(database: Database, mongod, tmp_path, seed, tell) -> None:
    """The same as the soak test, for some seconds."""
    run_rounds("bulk-quick", 8, database, mongod, tmp_path, seed, tell)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_hundreds_of_repetitions(database: Database, mongod, tmp_path, seed, tell) -> None:
    """500 rounds: a chat whose delete was refused was not deleted, and each repetition answers the truth."""
    run_rounds("bulk", number("SOAK_BULK_ROUNDS", 500), database, mongod, tmp_path, seed, tell)


def run_rounds(name: str, rounds: int, database: Database, mongod, folder, seed: int, tell) -> None:
    rng = random.Random(seed)
    records: list[Record] = []
    contested = 0
    with service(database, mongod.uri, folder) as (gunicorn, access), ThreadPoolExecutor(1) as pool:
        sockets = Sockets(gunicorn.port, access)
        with closing(Wire(gunicorn.port, access)) as first, closing(Wire(gunicorn.port, access)) as second:
            for _ in range(rounds):
                current = Round(rng, database, access.tenant_id)
                current.run([first, second], sockets, pool)
                records += current.records
                contested += current.was_contested()
    judge(
        name, records, database, access.tenant_id, 8.0 * PATIENCE, tell, seed=seed, rounds=rounds, contested=contested
    )
    assert contested > rounds // 10, "no contest"
