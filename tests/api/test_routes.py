"""Tests of every route, generated from the route table, so that no new endpoint is forgotten."""

import pytest
from flask import Flask

from chat_service import errors
from chat_service.api import problems
from chat_service.api.auth import API_PREFIX
from chat_service.app import create_app
from chat_service.models import Scope
from chat_service.settings import Settings
from tests.client import Client
from tests.mock_database import MockDatabase

UNKNOWN = "11111111-2222-4333-8444-555555555555"

OPEN = {"/healthz", "/readyz", "/metrics", "/problems/<name>", "/openapi.json", "/verify"} | {
    *("/docs", "/docs/", "/docs/<path:name>", "/problems")
}
"""The routes that the contract opens to everybody."""

BODIES = {
    ("PATCH", "/api/v1/chats/<chat_id>"): {"title": "x"},
    ("POST", "/api/v1/chats/<chat_id>/messages"): {"content": "x"},
    ("PATCH", "/api/v1/chats/<chat_id>/messages/<seq>"): {"content": "x"},
}
"""A valid body for each operation on a chat that needs one, so that only the chat can be the reason of a refusal."""


def path(rule: str, chat_id: str) -> str:
    named = {"<chat_id>": chat_id, "<hold_id>": UNKNOWN, "<erasure_id>": UNKNOWN, "<webhook_id>": UNKNOWN, "<seq>": "1"}
    for part, value in named.items():
        rule = rule.replace(part, value)
    return rule


def _operations(*, chat_page: bool = False) -> list[tuple[str, str]]:
    app = create_app(Settings("unused", 1024, threads=1, log_format="json", chat_page=chat_page), MockDatabase())
    methods = [(rule.rule, (rule.methods or set()) - {"HEAD", "OPTIONS"}) for rule in app.url_map.iter_rules()]
    return sorted((method, rule) for rule, allowed in methods for method in allowed)


OPERATIONS = [operation for operation in _operations() if operation[1].startswith(API_PREFIX)]
ON_A_CHAT = [operation for operation in OPERATIONS if "<chat_id>" in operation[1]]


def test_only_the_open_routes_are_outside_the_api() -> None:
    """All other routes are below /api/, where a key is needed."""
    assert {rule for _, rule in _operations() if not rule.startswith(API_PREFIX)} == OPEN
    with_page = {rule for _, rule in _operations(chat_page=True) if not rule.startswith(API_PREFIX)}
    assert with_page == {*OPEN, "/", "/page/<name>"}


@pytest.mark.parametrize(("method", "rule"), OPERATIONS)
def test_needs_a_key(app: Flask, method: str, rule: str) -> None:
    """Without a key the response is 401, whatever else is wrong with the request."""
    for chat_id in (UNKNOWN, "no-uuid"):
        answer = app.test_client().open(path(rule, chat_id), method=method, data=b"{")
        assert (answer.status_code, answer.get_json()["code"]) == (401, "invalid_api_key")
        assert answer.mimetype == "application/problem+json"


@pytest.mark.parametrize(("method", "rule"), OPERATIONS)
def test_needs_a_scope(app: Flask, new_tenant, method: str, rule: str) -> None:
    """A key with all other scopes gets a 403 that names the missing one."""
    endpoint = next(
        route.endpoint for route in app.url_map.iter_rules() if route.rule == rule and method in (route.methods or ())
    )
    needed = app.view_functions[endpoint].required_scope
    if needed is None:
        assert rule == "/api/v1/me", "which shows a key its own scopes"
        return
    others = {*Scope} - {needed}
    answer = Client(app, new_tenant(*others)).send(method, path(rule, UNKNOWN))
    assert (answer.status_code, answer.get_json()["required_scope"]) == (403, needed)


@pytest.mark.parametrize(("method", "rule"), ON_A_CHAT)
def test_another_tenants_chat_is_like_one_that_never_existed(
    alice: Client, bob: Client, method: str, rule: str
) -> None:
    """The responses are the same to the byte, headers included, and the chat does not change."""
    chat_id = alice.new_chat("hello")
    before = alice.send("GET", f"/api/v1/chats/{chat_id}").data
    same = {"headers": {"X-Request-ID": "same"}}
    if (method, rule) in BODIES:
        same["json"] = BODIES[method, rule]
    foreign = bob.send(method, path(rule, chat_id), **same)
    absent = bob.send(method, path(rule, UNKNOWN), **same)
    assert foreign.status_code == 404
    assert foreign.get_json()["code"] in {"chat_not_found", "not_found", "not_in_trash"}
    assert (foreign.data, foreign.headers) == (absent.data, absent.headers)
    assert alice.send("GET", f"/api/v1/chats/{chat_id}").data == before


@pytest.mark.parametrize(("method", "rule"), ON_A_CHAT)
@pytest.mark.parametrize("chat_id", ["no-uuid", UNKNOWN[:-1], UNKNOWN.replace("-", ""), f"urn:uuid:{UNKNOWN}"])
def test_an_id_that_is_not_a_uuid_is_400(alice: Client, method: str, rule: str, chat_id: str) -> None:
    """The response is a problem with 400, never a 404 in HTML or a 500."""
    answer = alice.send(method, path(rule, chat_id))
    assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_chat_id")


@pytest.mark.parametrize(("method", "rule"), OPERATIONS)
def test_a_bug_is_500_without_details(app: Flask, new_tenant, method: str, rule: str, caplog, monkeypatch) -> None:
    """Neither the response nor the log has the text of the exception."""

    def break_down(**_: object) -> None:
        raise RuntimeError("canary")

    for endpoint in app.view_functions:
        monkeypatch.setitem(app.view_functions, endpoint, break_down)
    answer = Client(app, new_tenant()).send(method, path(rule, UNKNOWN))
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")
    assert "canary" not in answer.get_data(as_text=True) + caplog.text
    assert "RuntimeError" in caplog.text


def test_every_domain_error_has_a_row() -> None:
    """An error that is missing from the table would become a 500."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = {error for error in classes if issubclass(error, errors.ChatServiceError)} - {
        errors.ChatServiceError,
        errors.UnsupportedServerError,  # ends the start of the service, before any request
        errors.WrongCollectionsError,  # at the start too, and on the command line
        errors.ExportEndedError,  # as the next but one
        errors.ExportOutdatedError,  # as the next
        errors.ExportCutError,  # ends a stream after its head was sent: the cut is the answer
        errors.TooManyConnectionsError,  # these two close WebSockets
        errors.ChangesLostError,
        errors.ClaimLostError,  # between purge workers; no request meets it
        errors.UnknownChatsError,  # these two are returned as errors of a field
        errors.ReceiverRefusedError,
        errors.SecretsUnreadableError,  # between workers
    }
    assert raised == set(problems.DOMAIN)


def test_every_answer_carries_the_request_id(alice: Client) -> None:
    """A valid X-Request-ID is returned; any other is replaced."""
    for sent, kept in (("abc-1.2:3", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("ü", False)):
        answer = alice.send("GET", f"/api/v1/chats/{UNKNOWN}", headers={"X-Request-ID": sent})
        assert (answer.headers["X-Request-ID"] == sent) is kept
        assert answer.get_json()["request_id"] == answer.headers["X-Request-ID"]
        assert answer.headers["Cache-Control"] == "no-store"
