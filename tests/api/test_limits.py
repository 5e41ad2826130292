"""Rate limits over HTTP: which requests take a token, and what the headers and refusals say."""

import re
from collections.abc import Callable

import pytest
from cachetools import TTLCache
from flask import Flask
from werkzeug.test import TestResponse

from chat_service.app import create_app
from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.models import RateLimit, Scope
from chat_service.repository.database import Database
from chat_service.repository.limits import RateLimits
from chat_service.repository.tenant_rules import CACHE_SECONDS
from chat_service.settings import Settings
from chat_service.telemetry import metrics
from tests.api.test_routes import BODIES, OPERATIONS, UNKNOWN, path
from tests.client import CHATS, Client, TenantAccess
from tests.conftest import begin

pytestmark = pytest.mark.usefixtures("patient_limits")

BURST = 5
SLOW = RateLimit(0.001, BURST)
"""So slow that no bucket gets a token back during a test."""

# draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4; RFC 9651 for lists, items and parameters.
POLICY = re.compile(r'"(read|write|delete)";q=(\d+);w=([1-9]\d*)')
LEFT = re.compile(r'"(read|write|delete)";r=(\d+);t=(\d+)')


@pytest.fixture
def either_database(database: Database) -> Database:
    """Only mongod: its clock fills the buckets."""
    return database


@pytest.fixture
def app(routes: Flask, database: Database) -> Flask:
    limits = RateLimits(database, dict.fromkeys(Scope, SLOW), metrics.count_unlimited)
    begin(database, limits=limits).install(routes.extensions)
    return routes


def left(answer: TestResponse) -> int:
    header = LEFT.fullmatch(answer.headers["RateLimit"])
    assert header
    return int(header[2])


@pytest.mark.parametrize(("method", "rule"), OPERATIONS)
def test_every_operation_is_limited(
    app: Flask, new_tenant: Callable[..., TenantAccess], method: str, rule: str
) -> None:
    """It takes a token of the scope it needs, whether or not it succeeds; the 429 says when to retry."""
    client = Client(app, new_tenant(*Scope))
    body = {"json": BODIES[method, rule]} if (method, rule) in BODIES else {}
    for number in range(BURST):
        answer = client.send(method, path(rule, UNKNOWN), **body)
        assert answer.status_code != 429
        assert left(answer) == BURST - 1 - number
        policy = POLICY.fullmatch(answer.headers["RateLimit-Policy"])
        assert policy
        assert (int(policy[2]), int(policy[3])) == (BURST, 5_000)
        assert policy[1] == LEFT.fullmatch(answer.headers["RateLimit"])[1]
    refused = client.send(method, path(rule, UNKNOWN), **body)
    assert (refused.status_code, refused.mimetype) == (429, "application/problem+json")
    problem = refused.get_json()
    assert (problem["code"], problem["success"], problem["limited_scope"]) == ("rate_limited", False, policy[1])
    assert 990 <= int(refused.headers["Retry-After"]) <= 1_000
    assert refused.headers["RateLimit"] == f'"{policy[1]}";r=0;t={refused.headers["Retry-After"]}'
    assert refused.headers["RateLimit-Policy"] == answer.headers["RateLimit-Policy"]


def test_without_a_limit_there_is_no_header(routes: Flask, database: Database, new_tenant) -> None:
    begin(database).install(routes.extensions)
    answer = Client(routes, new_tenant()).send("GET", CHATS)
    assert not [name for name, _ in answer.headers if name.lower().startswith("ratelimit")]


def test_a_request_that_is_refused_by_its_head_takes_no_token(app: Flask, alice: Client, new_tenant) -> None:
    """No key, no scope, no such address or method, no valid id or parameter: these requests cost no work."""
    reader = Client(app, new_tenant("read"))
    for _ in range(BURST + 1):
        assert app.test_client().get(CHATS).status_code == 401
        assert reader.send("POST", CHATS, json={}).status_code == 403
        assert alice.send("GET", "/api/v1/nothing").status_code == 404
        assert alice.send("PUT", CHATS).status_code == 405
        assert alice.send("GET", f"{CHATS}/no-uuid").status_code == 400
        assert alice.send("GET", CHATS, query_string={"x": "1"}).status_code == 422
        assert alice.send("GET", CHATS, headers={"Accept": "image/png"}).status_code == 406
    assert left(alice.send("GET", CHATS)) == BURST - 1
    assert left(reader.send("GET", CHATS)) == BURST - 1


def test_a_request_that_is_refused_by_its_body_takes_a_token(alice: Client) -> None:
    """The body had to be read and checked."""
    for number, body in enumerate((b"{", b'{"x": 1}', b'{"title": 1}')):
        answer = alice.send("POST", CHATS, data=body, content_type="application/json")
        assert answer.status_code in {400, 422}
        assert left(answer) == BURST - 1 - number
    answer = alice.send("POST", f"{CHATS}/delete", data=b"{", content_type="application/json")
    assert (answer.status_code, left(answer)) == (400, BURST - 1)
    for body in ({}, {"chat_ids": 5}, {"chat_ids": []}):
        last = alice.send("POST", f"{CHATS}/delete", json=body)
        assert last.status_code == 422
    assert left(last) == BURST - 4


def test_a_bulk_delete_counts_its_chats_and_a_batch_of_messages_is_one(alice: Client) -> None:
    chat_ids = [alice.new_chat(), alice.new_chat("a", "b", "c")]
    posted = alice.send("POST", f"{CHATS}/{chat_ids[0]}/messages", json={"messages": [{"content": "x"}] * 500})
    assert (posted.status_code, left(posted)) == (201, BURST - 4)
    assert left(alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [*chat_ids, UNKNOWN]})) == BURST - 3
    refused = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [UNKNOWN] * 3})
    assert (refused.status_code, left(refused)) == (429, BURST - 3)
    assert alice.send("DELETE", f"{CHATS}/{UNKNOWN}").status_code == 404


def test_more_than_the_burst_is_422_and_not_429(alice: Client) -> None:
    """A retry would never succeed: a 422 says how many are allowed at once, and takes no token."""
    refused = alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [UNKNOWN] * (BURST + 1)})
    assert (refused.status_code, refused.get_json()["code"]) == (422, "validation_error")
    assert refused.get_json()["errors"] == {"chat_ids": ["Send at most 5: your rate limit allows no more at once."]}
    assert "Retry-After" not in refused.headers
    assert left(alice.send("POST", f"{CHATS}/delete", json={"chat_ids": [UNKNOWN] * BURST})) == 0


def test_one_key_does_not_use_up_anothers(alice: Client, bob: Client, app: Flask) -> None:
    """Each key has its own bucket, also among the keys of one tenant."""
    for _ in range(BURST + 1):
        last = alice.send("GET", CHATS)
    assert last.status_code == 429
    assert left(bob.send("GET", CHATS)) == BURST - 1
    key, made = app.extensions["chat_service"].keys.create(alice.access.tenant_id, "second", Scope)
    second = Client(app, TenantAccess(alice.access.tenant_id, key, made.id))
    assert left(second.send("GET", CHATS)) == BURST - 1
    assert left(alice.send("POST", CHATS, json={})) == BURST - 1


def test_two_processes_share_a_bucket(mongod: EmbeddedMongod, alice: Client) -> None:
    elsewhere = Database(mongod.uri)
    limits = dict.fromkeys(Scope, SLOW)
    config = Settings("unused", 2**20, threads=8, log_format="json", rate_limits=limits)
    other = Client(create_app(config, elsewhere), alice.access)
    tokens = [left(client.send("GET", CHATS)) for client in (alice, other, alice, other)]
    elsewhere.close()
    assert tokens == [4, 3, 2, 1]


def test_a_tenants_own_limit_reaches_a_running_service(app: Flask, alice: Client, bob: Client) -> None:
    """It is set on the command line; each process applies it when it looks the key up again, within 5 s."""
    now = [1_000.0]
    keys = app.extensions["chat_service"].keys
    keys._callers = TTLCache(10, CACHE_SECONDS, timer=lambda: now[0])

    def set_limit(*options: str) -> None:
        run = app.test_cli_runner().invoke(args=["tenants", "limit", alice.access.tenant_id, *options])
        assert run.exit_code == 0, run.output

    assert left(alice.send("GET", CHATS)) == BURST - 1
    set_limit("--read", "0.001:2")
    assert left(alice.send("GET", CHATS)) == BURST - 2, "from the cache"
    now[0] += CACHE_SECONDS + 0.1
    assert left(alice.send("GET", CHATS)) == 1
    assert left(bob.send("GET", CHATS)) == BURST - 1
    set_limit("--read", "off")
    now[0] += CACHE_SECONDS + 0.1
    assert "RateLimit" not in alice.send("GET", CHATS).headers
    set_limit("--read", "default")
    now[0] += CACHE_SECONDS + 0.1
    assert left(alice.send("GET", CHATS)) == 0


def test_a_request_is_allowed_when_its_bucket_cannot_be_read(failpoint, alice: Client, app: Flask) -> None:
    """The metrics count it, and it has no RateLimit header, because the state of the bucket is unknown."""
    failpoint.arm("findAndModify", errorCode=13)
    before = counted(app)
    answer = alice.send("GET", CHATS)
    assert answer.status_code == 200
    assert "RateLimit" not in answer.headers
    assert counted(app) == before + 1


def counted(app: Flask) -> float:
    text = app.test_client().get("/metrics").get_data(as_text=True)
    sample = re.search(r"^chat_service_rate_limits_failed_open_total (\S+)$", text, re.MULTILINE)
    assert sample
    return float(sample[1])
