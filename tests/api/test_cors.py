"""Browsers on other origins: let in by CORS_ORIGINS, exactly, and by default not at all."""

import pytest
from flask import Flask

from chat_service.app import create_app
from chat_service.settings import Settings
from config import from_env
from tests.client import CHATS, Client, TenantAccess
from tests.mock_database import MockDatabase

GOOD = "https://good.example"
PREFLIGHT = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "traceparent, x-api-key"}


@pytest.fixture
def either_database() -> MockDatabase:
    """Nothing here asks the database anything that mongomock answers otherwise."""
    return MockDatabase()


@pytest.fixture
def app(either_database: MockDatabase) -> Flask:
    config = Settings("unused", 2**20, threads=8, log_format="json", cors_origins=(GOOD,))
    return create_app(config, either_database)


def test_a_browser_deletes_from_an_origin_that_is_let_in(alice: Client, app: Flask) -> None:
    """The preflight, which has no key, is answered; then the delete, whose answer the page may read."""
    path = f"{CHATS}/{alice.new_chat()}"
    preflight = app.test_client().options(path, headers={"Origin": GOOD, **PREFLIGHT})
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == GOOD
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    assert {"x-api-key", "traceparent"} <= set(preflight.headers["Access-Control-Allow-Headers"].lower().split(", "))
    answer = alice.send("DELETE", path, headers={"Origin": GOOD})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, GOOD)
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert {"ETag", "Location", "Retry-After", "X-Request-ID", "RateLimit", "RateLimit-Policy"} <= set(
        exposed.split(", ")
    )
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_errors_can_be_read_too(app: Flask) -> None:
    """A page has to see why it was refused."""
    answer = app.test_client().delete(f"{CHATS}/x", headers={"Origin": GOOD})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, GOOD)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://good.example.evil.com", "http://good.example", f"{GOOD}:8443", "*", ""],
)
def test_no_other_origin_is_let_in(app: Flask, alice: Client, origin: str) -> None:
    """Neither by preflight nor by request; caches are told that the answer depends on the origin."""
    for answer in (
        app.test_client().options(CHATS, headers={"Origin": origin, **PREFLIGHT}),
        alice.send("GET", CHATS, headers={"Origin": origin}),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


def test_by_default_no_origin_is_let_in(either_database: MockDatabase) -> None:
    """Without CORS_ORIGINS there is no such header, and a preflight is a request without a key."""
    app = create_app(Settings("unused", 2**20, threads=8, log_format="json"), either_database)
    answer = app.test_client().options(CHATS, headers={"Origin": GOOD, **PREFLIGHT})
    assert answer.status_code == 401
    assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118 - not a dict


def test_settings_that_are_no_origin_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `*` would let every page in; the sentence names what is wrong."""
    monkeypatch.setenv("MONGODB_URI", "mongodb://127.0.0.1")
    for wrong in ("*", "null", "https://good.example/", "good.example", "https://*.good.example"):
        monkeypatch.setenv("CORS_ORIGINS", f"{GOOD},{wrong}")
        with pytest.raises(Exception, match="CORS_ORIGINS: Not an exact origin"):
            from_env()
    monkeypatch.setenv("CORS_ORIGINS", f"{GOOD},http://localhost:3000")
    assert from_env().cors_origins == (GOOD, "http://localhost:3000")


def test_a_key_is_still_needed(app: Flask) -> None:
    """CORS opens nothing to those without one."""
    client = Client(app, TenantAccess("t", "wrong", "k"))
    assert client.send("GET", CHATS, headers={"Origin": GOOD}).status_code == 401
