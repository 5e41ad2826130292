"""Fixtures: an application with webhooks, a client with every scope, and a worker."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from chat_service.api.log import message_json
from chat_service.jobs.delivering import Delivering
from chat_service.jobs.runner import run
from chat_service.models import Scope
from chat_service.repository.database import Database
from chat_service.repository.sealing import Sealer, new_key
from tests.client import Client, TenantAccess
from tests.conftest import begin
from tests.numbering import numbering

KEY = new_key()


@pytest.fixture
def app(routes: Flask, database: Database) -> Flask:
    """The application with webhooks, which may go to this machine."""
    begin(database, sealer=Sealer((KEY,)), private_networks=True).install(routes.extensions)
    return routes


@pytest.fixture
def either_database(database: Database) -> Database:
    """The real database: the log is written from a change stream, which mongomock does not have."""
    return database


@pytest.fixture
def governor(app: Flask, new_tenant: Callable[..., TenantAccess]) -> Client:
    return Client(app, new_tenant(*Scope))


@pytest.fixture
def worker(app: Flask, database: Database) -> Iterator[None]:
    """Write the log and deliver webhooks, as `jobs run` does."""
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
