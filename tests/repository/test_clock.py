"""`now` is the database server's time, independent of this machine's clock."""

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.repository.database import Database


def test_it_is_the_servers_time(mongod: EmbeddedMongod) -> None:
    """From the server's first response on, a local clock that is an hour off makes no difference."""
    with closing(Database(mongod.uri)) as database:
        database._clock._reading = (datetime.now(UTC) + timedelta(hours=1), time.monotonic())
        assert database.is_ready()
        assert abs(database.now() - datetime.now(UTC)) < timedelta(seconds=3)


def test_it_has_whole_milliseconds_as_stored_times_have(database: Database) -> None:
    """So a time that was stored is equal to the one that was returned."""
    assert database.now().microsecond % 1000 == 0
