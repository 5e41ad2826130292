"""The log has each committed event once, without gaps, in the order of commits, whenever a sequencer takes over."""

import itertools
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from chat_service.errors import ChatServiceError, ClaimLostError
from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.sequencing import Sequencing
from chat_service.models import Kind, LogEntry, NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from chat_service.repository.log import Log
from chat_service.repository.messages import Messages
from chat_service.repository.purges import Purges
from chat_service.repository.sequencer import POSITION, Sequencer
from chat_service.repository.trash import Trash
from tests.wait import wait_until

TENANT = "t"

Make = Callable[..., Sequencing]


@pytest.fixture
def sequencing(database: Database) -> Iterator[Make]:
    """Return a function that makes a sequencer with a name; all end with the test."""
    made: list[Sequencing] = []

    def make(name: str = "one") -> Sequencing:
        made.append(Sequencing(Sequencer(database, name)))
        return made[-1]

    yield make
    for worker in made:
        worker.end()


def catch_up(database: Database, worker: Sequencing, head: int, tenant_id: str = TENANT) -> list[LogEntry]:
    """Run the sequencer until the log has `head` entries, and once more; return all entries."""

    def is_there() -> bool:
        worker.run_once()
        return Log(database).heads([tenant_id]).get(tenant_id, 0) >= head

    wait_until(is_there)
    worker.run_once()
    return Log(database).page(tenant_id, 0, 10_000).entries


def new_chat(database: Database, messages: int = 2, tenant_id: str = TENANT) -> str:
    chat_id = Chats(database).create(tenant_id, None, {}).id
    if messages:
        Messages(database).append(tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})] * messages)
    return chat_id


def live_a_life(database: Database, tenant_id: str = TENANT) -> tuple[str, list[Kind]]:
    """Do everything to a chat that makes log entries; return its id, and the kinds that the log should have."""
    chat_id = new_chat(database, 3, tenant_id)
    messages, deletions, trash = Messages(database), Deletions(database), Trash(database)
    messages.edit(tenant_id, chat_id, 1, {"content": "y"}, "editor")
    messages.delete(tenant_id, chat_id, 2, "remover")
    deletions.move_to_trash(tenant_id, chat_id, "trasher", timedelta(days=1))
    trash.restore(tenant_id, chat_id, "restorer")
    deletions.move_to_trash(tenant_id, chat_id, "trasher", timedelta(days=1))
    trash.restore(tenant_id, chat_id, "restorer")
    messages.clear(tenant_id, chat_id, "cleaner")
    deletions.delete(tenant_id, chat_id, "deleter")
    kinds = [Kind.MESSAGE_EDITED, Kind.MESSAGE_DELETED, Kind.CHAT_TRASHED, Kind.CHAT_RESTORED]
    kinds += [Kind.CHAT_TRASHED, Kind.CHAT_RESTORED, Kind.CHAT_EMPTIED, Kind.CHAT_DELETED, Kind.CHAT_PURGED]
    return chat_id, kinds


def require_no_gaps(entries: list[LogEntry]) -> None:
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


def kinds_of(entries: list[LogEntry], chat_id: str) -> list[Kind]:
    return [entry.event.kind for entry in entries if entry.event.chat_id == chat_id]


def lose_position(database: Database) -> None:
    database.log_position.delete_many({})


def test_every_committed_event_is_logged_once_and_in_order(database: Database, sequencing: Make) -> None:
    worker = sequencing()
    chat_id, kinds = live_a_life(database)
    entries = catch_up(database, worker, len(kinds))
    require_no_gaps(entries)
    assert kinds_of(entries, chat_id) == kinds
    assert [entry.event.actor for entry in entries] == [
        "editor", "remover", "trasher", "restorer", "trasher", "restorer", "cleaner", "deleter", "purge",
    ]  # fmt: skip
    assert [dict(entry.event.facts).get("message_count") for entry in entries] == [None, None, 2, 2, 2, 2, 2, 0, 0]
    assert [dict(entry.event.facts).get("message_seq") for entry in entries[:3]] == [1, 2, None]
    assert database.outbox.count_documents({}) == 0


def test_a_refused_operation_is_not_logged(database: Database, sequencing: Make) -> None:
    worker = sequencing()
    chat_id = new_chat(database)
    catch_up(database, worker, 0)
    for refused in (
        lambda: Deletions(database).delete(TENANT, chat_id, "k", revisions=[99]),
        lambda: Deletions(database).move_to_trash(TENANT, chat_id, "k", timedelta(days=1), revisions=[99]),
        lambda: Trash(database).restore(TENANT, chat_id, "k"),
        lambda: Messages(database).edit(TENANT, chat_id, 99, {"content": "x"}, "k"),
        lambda: Messages(database).delete(TENANT, chat_id, 99, "k"),
        lambda: Messages(database).clear(TENANT, str(uuid.uuid4()), "k"),
    ):
        with pytest.raises(ChatServiceError):
            refused()
    Deletions(database).delete(TENANT, chat_id, "k")
    entries = catch_up(database, worker, 2)
    assert [entry.event.kind for entry in entries] == [Kind.CHAT_DELETED, Kind.CHAT_PURGED]


def test_a_purge_is_logged_when_the_last_message_is_gone(database: Database, sequencing: Make) -> None:
    worker = sequencing()
    chat_id = new_chat(database, 30)
    Deletions(database, inline_limit=10).delete(TENANT, chat_id, "k")
    entries = catch_up(database, worker, 1)
    assert kinds_of(entries, chat_id) == [Kind.CHAT_DELETED]
    purges = PurgeWorker(Purges(database))
    while not purges.is_done():
        purges.run_once()
    entries = catch_up(database, worker, 2)
    assert kinds_of(entries, chat_id) == [Kind.CHAT_DELETED, Kind.CHAT_PURGED]
    assert entries[-1].event.facts == {"message_count": 30}


@pytest.mark.parametrize("numbered", range(0, 10, 3))
def test_after_the_position_is_lost_every_event_is_logged_once_and_in_order(
    database: Database, sequencing: Make, numbered: int
) -> None:
    """The position is lost in a database without a log, after the oplog has rolled over, and after a restore."""
    lives = [live_a_life(database) for _ in range(numbered)]
    if lives:
        catch_up(database, sequencing("before"), 9 * numbered)
    lose_position(database)
    lives += [live_a_life(database) for _ in range(9 - numbered)]
    large = new_chat(database, 30)
    Deletions(database, inline_limit=10).delete(TENANT, large, "k")
    PurgeWorker(Purges(database)).run_once()
    lives.append((large, [Kind.CHAT_DELETED, Kind.CHAT_PURGED]))
    entries = catch_up(database, sequencing("after"), 9 * 9 + 2)
    require_no_gaps(entries)
    assert {chat_id: kinds_of(entries, chat_id) for chat_id, _ in lives} == dict(lives)
    assert len(entries) == 9 * 9 + 2


def test_a_rescan_finds_a_purge_whose_delete_is_logged(database: Database, sequencing: Make) -> None:
    chat_id = new_chat(database, 30)
    Deletions(database, inline_limit=10).delete(TENANT, chat_id, "k")
    catch_up(database, sequencing("before"), 1)
    lose_position(database)
    PurgeWorker(Purges(database)).run_once()
    entries = catch_up(database, sequencing("after"), 2)
    assert kinds_of(entries, chat_id) == [Kind.CHAT_DELETED, Kind.CHAT_PURGED]


def test_a_token_that_the_server_has_forgotten_leads_to_a_rescan(database: Database, sequencing: Make) -> None:
    worker = sequencing()
    catch_up(database, worker, 0)
    database.log_position.update_one(
        POSITION, {"$set": {"token": {"_data": "8200000000"}, "lease_until": database.now()}}
    )
    chat_id, kinds = live_a_life(database)
    entries = catch_up(database, sequencing("other"), len(kinds))
    assert kinds_of(entries, chat_id) == kinds
    require_no_gaps(entries)


def test_only_the_holder_of_the_lease_claims_the_log_until_it_gives_up(database: Database) -> None:
    first, other = Sequencer(database, "one"), Sequencer(database, "other")
    assert first.claim() is not None
    assert other.claim() is None
    assert first.claim() is not None
    first.give_up()
    assert other.claim() is not None
    with pytest.raises(ClaimLostError):
        first.begin_rescan()


def test_a_sequencer_that_has_lost_its_lease_writes_nothing(database: Database, sequencing: Make) -> None:
    loser = sequencing()
    wait_until(lambda: loser.run_once() is None and Sequencer(database).status().up_to is not None)
    database.log_position.update_one(POSITION, {"$set": {"holder": "other"}})
    Deletions(database).delete(TENANT, new_chat(database), "k")
    assert loser.run_once() is None
    assert Log(database).heads([TENANT]) == {}


def test_competing_sequencers_write_each_event_once(database: Database, sequencing: Make) -> None:
    """Two sequencers keep losing the lease to each other, with a rescan now and then, while chats are deleted."""
    stop = threading.Event()
    expected: dict[str, list[Kind]] = {}

    def live() -> None:
        while not stop.is_set():
            tenant_id = random.choice(["a", "b", "c"])
            chat_id, kinds = live_a_life(database, tenant_id)
            expected[f"{tenant_id} {chat_id}"] = kinds

    def fight(worker: Sequencing) -> None:
        while not stop.is_set():
            worker.run_once()
            change = {"lease_until": database.now()}
            database.log_position.update_one(
                POSITION, {"$set": change, **random.choice([{}, {"$unset": {"token": ""}}])}
            )

    threads = [threading.Thread(target=live) for _ in range(3)]
    threads += [threading.Thread(target=fight, args=(sequencing(name),)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    stop.wait(6)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(expected) > 10
    last = sequencing("last")
    database.log_position.update_one(POSITION, {"$set": {"lease_until": database.now()}})
    for tenant_id in ("a", "b", "c"):
        own = {name.split()[1]: kinds for name, kinds in expected.items() if name.startswith(tenant_id)}
        entries = catch_up(database, last, sum(map(len, own.values())), tenant_id)
        require_no_gaps(entries)
        assert {chat_id: kinds_of(entries, chat_id) for chat_id in own} == own
        assert len(entries) == sum(map(len, own.values()))


def test_pages_of_the_log(database: Database, sequencing: Make) -> None:
    lives = [live_a_life(database) for _ in range(3)]
    log = Log(database)
    everything = catch_up(database, sequencing(), 27)
    pages = list(walk(log, 7))
    assert [entry for page in pages for entry in page] == everything
    deletes = list(itertools.chain.from_iterable(walk(log, 2, Kind.CHAT_DELETED)))
    assert [entry.event.chat_id for entry in deletes] == [chat_id for chat_id, _ in lives]
    assert log.page("other", 0, 10).head == 0
    assert log.page(TENANT, 27, 10).entries == []
    assert log.page(TENANT, 99, 10).next_after == 99


def walk(log: Log, limit: int, kind: Kind | None = None) -> Iterator[list[LogEntry]]:
    after = 0
    while (page := log.page(TENANT, after, limit, kind)).next_after > after:
        yield page.entries
        after = page.next_after


def test_the_status_says_how_far_the_sequencer_is(database: Database, sequencing: Make) -> None:
    sequencer = Sequencer(database, "one")
    assert sequencer.status().up_to is None
    worker = sequencing()
    wait_until(lambda: worker.run_once() is None and sequencer.status().up_to is not None)
    status = sequencer.status()
    assert status.behind is not None
    assert status.behind < timedelta(seconds=30)
    assert status.process is not None
    assert not status.is_rescanning


def test_the_log_has_the_digest_of_the_export_before_a_delete(database: Database, sequencing: Make) -> None:
    worker = sequencing()
    Deletions(database).delete(TENANT, new_chat(database), "k", export_sha256="a" * 64)
    deleted, purged = catch_up(database, worker, 2)
    assert deleted.event.facts == {"message_count": 2, "export_sha256": "a" * 64}
    assert purged.event.facts == {"message_count": 2}
