"""An application with webhooks, a tenant that governs, and a worker."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from chat_service.api.log import message_json
from chat_service.app import create_app
from chat_service.jobs.delivering import Delivering
from chat_service.jobs.runner import run
from chat_service.models import Scope
from chat_service.repository.database import Database
from chat_service.repository.sealing import new_key
from chat_service.settings import Settings
from tests.client import Client, TenantAccess
from tests.numbering import numbering

KEY = new_key()


@pytest.fixture
def app(database: Database) -> Flask:
    """Webhooks may go to this machine."""
    settings = {"webhook_keys": (KEY,), "webhook_private_networks": True}
    return create_app(Settings("unused", 2**20, threads=8, log_format="json", **settings), database)


@pytest.fixture
def either_database(database: Database) -> Database:
    """The log is written from a change stream."""
    return database


@pytest.fixture
def governor(app: Flask, new_tenant: Callable[..., TenantAccess]) -> Client:
    return Client(app, new_tenant(*Scope))


@pytest.fixture
def worker(app: Flask, database: Database) -> Iterator[None]:
    """What `jobs run` has: the log is written, and told."""
    stop = threading.Event()
    with numbering(database):
        thread = threading.Thread(target=run, args=(delivering(app), stop))
        thread.start()
        yield
        stop.set()
        thread.join()


def delivering(app: Flask, **options: Any) -> Delivering:
    deliveries = app.extensions["chat_service"].deliveries
    return Delivering(deliveries, message_json, **{"private_networks": True, **options})
