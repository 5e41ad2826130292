"""The database is paused, and there are four times as many clients as threads.

What is promised: no response takes longer than 25 s; requests are refused at once when the outage is known; health
checks respond all the time; and every chat can be deleted within 3 s after the database is back.
"""

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.models import NewMessage, Role
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from chat_service.repository.tenants import Tenants
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn
from tests.pause import paused
from tests.wait import PATIENCE, wait_until

WORKERS, THREADS = 2, 8
CLIENTS = 4 * WORKERS * THREADS
LATEST_SECONDS = 25.0
KNOWN_SECONDS = 6.5
"""When the outage is known: the driver's heartbeat fails after at most 4 s, then 1 s is left for a new primary."""

QUICK_SECONDS = 0.1
NO_WAIT_SECONDS = 2.0
"""Requests that wait for the database take longer: the driver looks for a server for 4 s. Requests that do not wait
take less, even on a busy machine; `make soak` has the machine to itself, and uses `QUICK_SECONDS`."""

FREE_SECONDS = 3.0
PAUSE_SECONDS = 14.0
"""Longer than an election, so that requests that wait for one get their response during the pause."""

WAITING_SECONDS = (1.0, 8.0)
"""Between how many seconds a request has waited that still has time left for a response."""

pytestmark = pytest.mark.timeout(240)


class Answer(NamedTuple):
    began: float
    seconds: float
    status: int
    retry_after: str | None


@pytest.fixture(scope="module")
def own_mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMongod]:
    with EmbeddedMongod(tmp_path_factory.mktemp("paused")) as running:
        yield running


@pytest.fixture(scope="module")
def own_database(own_mongod: EmbeddedMongod) -> Iterator[Database]:
    database = Database(own_mongod.uri, max_pool_size=CLIENTS)
    database.prepare()
    yield database
    database.close()


@pytest.fixture(scope="module")
def service(own_mongod: EmbeddedMongod, own_database: Database) -> Iterator[ForkedGunicorn]:
    del own_database  # its collections are in place
    environment = {"WEB_CONCURRENCY": str(WORKERS), "THREADS": str(THREADS)}
    with ForkedGunicorn(own_mongod.uri, free_port(), **environment) as running:
        yield running


@pytest.fixture(scope="module")
def access(own_database: Database) -> TenantAccess:
    tenant = Tenants(own_database).create("t")
    key, made = ApiKeys(own_database).create(tenant.id, "test", ["read", "write", "delete"])
    return TenantAccess(tenant.id, key, made.id)


class Crowd:
    """Clients that send one request after the other until the block ends, and the answers that they got."""

    def __init__(self, clients: int, send: Callable[[requests.Session, int], requests.Response]) -> None:
        self.answers: list[Answer] = []
        self._pending_since: dict[int, float] = {}
        self._send = send
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def _run(self, number: int) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                began = self._pending_since[number] = time.monotonic()
                answer = self._send(session, number)
                del self._pending_since[number]
                took = time.monotonic() - began
                self.answers.append(Answer(began, took, answer.status_code, answer.headers.get("Retry-After")))
                # Retry sooner than Retry-After says, and not all at the same time.
                self._stop.wait(random.uniform(0.5, 1.5) if answer.status_code == 503 else 0.05)

    def waiting(self, least: float, most: float) -> int:
        """Return how many clients have waited for their answer for more than `least` and less than `most` seconds."""
        now = time.monotonic()
        return sum(least < now - began < most for began in list(self._pending_since.values()))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def new_chats(database: Database, access: TenantAccess, count: int) -> list[str]:
    ids = []
    for _ in range(count):
        ids.append(Chats(database).create(access.tenant_id, None, {}).id)
        Messages(database).append(access.tenant_id, ids[-1], [NewMessage(Role.USER, "x", None, {})] * 3)
    return ids


def quantile(answers: list[Answer], percent: int) -> float:
    return statistics.quantiles([answer.seconds for answer in answers], n=100)[percent - 1]


@pytest.mark.parametrize("at_once", [NO_WAIT_SECONDS, pytest.param(QUICK_SECONDS, marks=pytest.mark.soak)])
def test_a_paused_database(own_mongod, own_database, service, access, at_once) -> None:
    """The pause is longer than any request waits; then mongod also gets the commands of requests that have given up."""
    ids = new_chats(own_database, access, CLIENTS)
    url = f"http://127.0.0.1:{service.port}"

    def send_request(session: requests.Session, number: int) -> requests.Response:
        path = f"{CHATS}/{ids[number]}"
        if number % 2:
            return session.get(url + path, headers=access.headers, timeout=60)
        body = {"content": "x"}
        return session.post(f"{url}{path}/messages", json=body, headers=access.headers, timeout=60)

    def check_health(session: requests.Session, number: int) -> requests.Response:
        return session.get(url + ("/healthz", "/readyz")[number], timeout=60)

    with Crowd(CLIENTS, send_request) as crowd, Crowd(2, check_health) as watchers:
        wait_until(lambda: len(crowd.answers) > 2 * CLIENTS, 30)
        paused_at = time.monotonic()
        with paused(own_mongod.process.pid):
            time.sleep(PAUSE_SECONDS)
            # On a busy machine, the first requests may hold their threads until now.
            wait_until(lambda: crowd.waiting(*WAITING_SECONDS) >= WORKERS, 20)
            resumed_at = time.monotonic()
        time.sleep((FREE_SECONDS - 1) * PATIENCE)
        after_pause = [answer for answer in crowd.answers if answer.began > resumed_at + PATIENCE]
    statuses = delete_all(url, access, ids)
    all_deleted_at = time.monotonic()

    in_outage = [a for a in crowd.answers if paused_at + KNOWN_SECONDS < a.began < resumed_at]
    waited = [a for a in crowd.answers if a.began < resumed_at - 1.0 and resumed_at < a.began + a.seconds]
    health_answers = [a for a in watchers.answers if paused_at < a.began < resumed_at]
    print(  # noqa: T201 - shown when it fails
        len(crowd.answers), "answers, slowest", max(a.seconds for a in crowd.answers),
        "known:", len(in_outage), Counter(a.status for a in in_outage), "p95", quantile(in_outage, 95),
        "slow", sorted(round(a.seconds, 2) for a in in_outage if a.seconds > QUICK_SECONDS),
        "waited", Counter(a.status for a in waited),
        "watchers", max(a.seconds for a in health_answers), Counter(a.status for a in health_answers),
        "after", Counter(a.status for a in after_pause), "free", all_deleted_at - resumed_at,
    )  # fmt: skip
    assert max(answer.seconds for answer in crowd.answers) < LATEST_SECONDS
    assert len(in_outage) > CLIENTS
    # On a busy machine everything is slow, but a refusal is still no slower than an answer was before the pause.
    healthy = [answer for answer in crowd.answers if answer.began + answer.seconds < paused_at]
    limit_seconds = max(at_once, quantile(healthy, 95))
    assert sum(answer.seconds < limit_seconds for answer in in_outage) >= 0.95 * len(in_outage)
    assert sum(answer.status in {200, 201} for answer in waited) >= WORKERS, "some wait, and are served"
    assert all(answer.retry_after for answer in crowd.answers if answer.status == 503)
    assert max(answer.seconds for answer in health_answers) < 2.0
    assert {answer.status for answer in after_pause} in ({200}, {201}, {200, 201}), "a second after, nobody is refused"
    assert Counter(statuses) == {200: len(ids)}
    assert list(Checks(own_database).run()) == []


def delete_all(url: str, access: TenantAccess, ids: list[str]) -> list[int]:
    """Delete every chat and return the statuses; fail if one takes longer than `FREE_SECONDS`."""
    statuses = []
    with requests.Session() as session:
        for chat_id in ids:
            began = time.monotonic()
            statuses.append(session.delete(f"{url}{CHATS}/{chat_id}", headers=access.headers, timeout=30).status_code)
            assert time.monotonic() - began < FREE_SECONDS
    return statuses


def test_every_chat_is_free_soon_after_a_pause(own_mongod, own_database, service, access) -> None:
    """Clients post when the database is paused; within 3 s after it is back, every chat can be deleted."""
    ids = new_chats(own_database, access, WORKERS * THREADS)
    url = f"http://127.0.0.1:{service.port}"
    chat_ids = list(ids)
    lock = threading.Lock()

    def post_message(session: requests.Session, number: int) -> requests.Response:
        with lock:
            chat_id = chat_ids[number]
        return session.post(
            f"{url}{CHATS}/{chat_id}/messages", json={"content": "x"}, headers=access.headers, timeout=60
        )

    with Crowd(len(ids), post_message):
        time.sleep(1)
        with paused(own_mongod.process.pid):
            time.sleep(6)
        resumed_at = time.monotonic()
        remaining = set(ids)
        with requests.Session() as session:
            while remaining:
                for chat_id in list(remaining):
                    answer = session.delete(f"{url}{CHATS}/{chat_id}", headers=access.headers, timeout=30)
                    assert answer.status_code in {200, 503}
                    if answer.status_code == 200:
                        remaining.remove(chat_id)
                assert time.monotonic() - resumed_at < FREE_SECONDS
    assert list(Checks(own_database).run()) == []


def test_a_request_that_the_router_gives_up_is_refused_at_once(service, access) -> None:
    """X-Request-Start of 24 s ago gets 503 with Retry-After. One that is recent or makes no sense is served."""
    url = f"http://127.0.0.1:{service.port}{CHATS}"
    now = time.time()
    for header, status in (
        (f"{(now - 24) * 1000:.0f}", 503),
        (f"t={now - 24:.3f}", 503),
        (f"{now * 1000:.0f}", 200),
        (f"t={now:.3f}", 200),
        (f"{(now + 3600) * 1000:.0f}", 200),
        (f"{(now - 3600) * 1000:.0f}", 200),
        ("soon", 200),
    ):
        answer = requests.get(url, headers={**access.headers, "X-Request-Start": header}, timeout=30)
        assert (answer.status_code, "Retry-After" in answer.headers) == (status, status == 503), header
