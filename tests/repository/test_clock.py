"""The database's time, whatever this machine's clock says."""

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.repository.database import Database


def test_it_is_the_servers_time(mongod: EmbeddedMongod) -> None:
    """Also on a machine whose clock is an hour off, from the first answer on."""
    with closing(Database(mongod.uri)) as database:
        database._clock._reading = (datetime.now(UTC) + timedelta(hours=1), time.monotonic())
        assert database.is_ready()
        assert abs(database.now() - datetime.now(UTC)) < timedelta(seconds=3)


def test_it_has_the_milliseconds_that_are_stored(database: Database) -> None:
    """So that a time that was stored is equal to the one that was answered."""
    assert database.now().microsecond % 1000 == 0
