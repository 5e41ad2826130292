"""Webhooks do not go into the service's own network, however the address is written."""

import asyncio
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask

from chat_service.app import create_app
from chat_service.jobs.sender import AttemptResult, Sender
from chat_service.models import Attempt, Scope
from chat_service.repository import receivers
from chat_service.repository.database import Database
from chat_service.repository.receivers import is_public
from chat_service.repository.sealing import Sealer, new_key
from chat_service.settings import Settings
from tests.client import Client, TenantAccess
from tests.conftest import begin
from tests.webhooks.receiver import Receiver

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104 - an address, not a binding
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:0:0:0:0:f5ff:fffe",
]

PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8", "64:ff9b::808:808"]

FORMS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "169.254.169.254",
    "10.0.0.1",
    "0",
]
"""Ways to write an address of this machine or of a private network."""


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    assert is_public(address)


@pytest.fixture
def governor(routes: Flask, database: Database, new_tenant: Callable[..., TenantAccess]) -> Client:
    """A client with every scope, of a service whose webhooks go to public addresses only."""
    begin(database, sealer=Sealer((new_key(),))).install(routes.extensions)
    return Client(routes, new_tenant(*Scope))


@pytest.mark.parametrize("host", FORMS)
def test_it_is_refused_when_it_is_made(governor: Client, host: str) -> None:
    for url in (f"https://{host}/", f"https://{host}:8443/x"):
        answer = governor.send("POST", "/api/v1/webhooks", json={"url": url})
        assert (answer.status_code, list(answer.get_json()["errors"])) == (422, ["url"])


@pytest.mark.parametrize("url", ["http://93.184.215.14/", "https://no-such-host.invalid/"])
def test_so_is_what_is_not_encrypted_or_leads_nowhere(governor: Client, url: str) -> None:
    assert governor.send("POST", "/api/v1/webhooks", json={"url": url}).status_code == 422


def test_without_a_key_there_are_none(database: Database, new_tenant) -> None:
    """Without a key that seals their secrets, webhooks cannot be created: secrets are not stored in the clear."""
    app = create_app(Settings("unused", 2**20, threads=8, log_format="json"), database)
    answer = Client(app, new_tenant(*Scope)).send("POST", "/api/v1/webhooks", json={"url": "https://example.com/"})
    assert (answer.status_code, answer.get_json()["code"]) == (409, "webhooks_off")


def attempt(url: str) -> Attempt:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    return Attempt(*ids, url, [b"x" * 32], 1, datetime.now(UTC), "webhook.test", None)


def send(url: str, *, private_networks: bool = False) -> AttemptResult:
    async def run() -> AttemptResult:
        sender = Sender(private_networks=private_networks)
        try:
            return await sender.send(attempt(url), {})
        finally:
            await sender.close()

    return asyncio.run(run())


@pytest.mark.parametrize("host", FORMS)
def test_it_is_refused_when_it_is_connected_to(host: str) -> None:
    """Nothing arrives, whatever the check found when the webhook was created."""
    with Receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        result = send(url)
        assert result.status is None
        assert result.reason in {"private_address", "unreachable"}
        assert receiver.messages == []
        if host == "127.0.0.1":
            assert result.reason == "private_address"
            assert send(url, private_networks=True).status == 204, "it is only the address that stands in the way"


def test_a_name_that_means_something_else_a_moment_later(governor: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check uses the address that is connected to, not the one that was found when the webhook was created."""
    public_address = ("93.184.215.14", 443)
    public_addresses: list[Any] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", public_address)]
    monkeypatch.setattr(receivers.socket, "getaddrinfo", lambda *_, **__: public_addresses)
    answer = governor.send("POST", "/api/v1/webhooks", json={"url": "https://rebinding.example/hook"})
    assert answer.status_code == 201
    with Receiver() as receiver:
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        local_addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: local_addresses)
        result = send(f"http://rebinding.example:{port}/hook")
        assert result == AttemptResult(None, "private_address")
        assert receiver.messages == []
