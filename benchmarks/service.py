"""The real service on an empty embedded database, for the benchmarks."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port
from chat_service.embedded.service import EmbeddedGunicorn
from chat_service.models import Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.database import Database
from chat_service.repository.tenants import Tenants

TENANT = "00000000-0000-4000-8000-0000000be7c4"
KEY = "benchmark-key"
HEADERS = {"X-API-Key": KEY}

Address = tuple[str, int]


@contextmanager
def service(**environment: str) -> Iterator[tuple[str, Address]]:
    """Run mongod and gunicorn as deployed, except for `environment`; give the database's URI and the HTTP address."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedMongod(Path(folder)) as mongod:
        database = Database(mongod.uri)
        database.prepare()
        Tenants(database).create("bench", TENANT)
        ApiKeys(database).create(TENANT, "bench", Scope, KEY)
        database.close()
        # The log is written, as when deployed, because it costs time. It goes to a file, to keep the table readable.
        with (
            (Path(folder) / "service.log").open("wb") as log,
            EmbeddedGunicorn(mongod.uri, free_port(), output=log, folder=None, **environment) as gunicorn,
        ):
            yield mongod.uri, ("127.0.0.1", gunicorn.port)
