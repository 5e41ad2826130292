"""Browsers on other origins: only the exact origins in CORS_ORIGINS are allowed, and by default none is."""

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
    """These tests send no command for which mongomock differs from mongod."""
    return MockDatabase()


@pytest.fixture
def app(either_database: MockDatabase) -> Flask:
    config = Settings("unused", 2**20, threads=8, log_format="json", cors_origins=(GOOD,))
    return create_app(config, either_database)


def test_a_browser_deletes_from_an_allowed_origin(alice: Client, app: Flask) -> None:
    """The preflight succeeds without a key; then the delete does, and the page may read its response."""
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
    """A page can read the response that says why its request was refused."""
    answer = app.test_client().delete(f"{CHATS}/x", headers={"Origin": GOOD})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, GOOD)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://good.example.evil.com", "http://good.example", f"{GOOD}:8443", "*", ""],
)
def test_no_other_origin_is_allowed(app: Flask, alice: Client, origin: str) -> None:
    """No response allows it; Vary tells caches that the response depends on the origin."""
    for answer in (
        app.test_client().options(CHATS, headers={"Origin": origin, **PREFLIGHT}),
        alice.send("GET", CHATS, headers={"Origin": origin}),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


def test_by_default_no_origin_is_allowed(either_database: MockDatabase) -> None:
    """Without CORS_ORIGINS no CORS header is sent, and a preflight is refused as a request without a key."""
    app = create_app(Settings("unused", 2**20, threads=8, log_format="json"), either_database)
    answer = app.test_client().options(CHATS, headers={"Origin": GOOD, **PREFLIGHT})
    assert answer.status_code == 401
    assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118 - not a dict


def test_settings_that_are_not_origins_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting; `*` is refused because it would allow every page."""
    monkeypatch.setenv("MONGODB_URI", "mongodb://127.0.0.1")
    for wrong in ("*", "null", "https://good.example/", "good.example", "https://*.good.example"):
        monkeypatch.setenv("CORS_ORIGINS", f"{GOOD},{wrong}")
        with pytest.raises(Exception, match="CORS_ORIGINS: Not an exact origin"):
            from_env()
    monkeypatch.setenv("CORS_ORIGINS", f"{GOOD},http://localhost:3000")
    assert from_env().cors_origins == (GOOD, "http://localhost:3000")


def test_a_key_is_still_needed(app: Flask) -> None:
    """A request from an allowed origin is refused without a valid key."""
    client = Client(app, TenantAccess("t", "wrong", "k"))
    assert client.send("GET", CHATS, headers={"Origin": GOOD}).status_code == 401
