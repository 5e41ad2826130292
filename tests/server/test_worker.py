"""A worker under the real gunicorn."""

from pathlib import Path

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port, start, stop
from tests.wait import wait_until

APPLICATION = """
import os, pathlib, signal

with pathlib.Path({pids!r}).open("a") as pids:
    print(os.getpid(), file=pids)
try:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
except BaseException:
    pass


async def application(scope, receive, send):
    pass
"""
"""A module that, while it is imported, writes its process id to a file, gets SIGTERM and swallows what that raises."""


def test_an_import_that_swallows_everything_does_not_keep_it_from_ending(
    mongod: EmbeddedMongod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that gets SIGTERM while it imports the application ends, and is replaced."""
    pids = tmp_path / "pids"
    (tmp_path / "deaf.py").write_text(APPLICATION.format(pids=str(pids)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = ("gunicorn", "-c", "gunicorn.conf.py", "-w", "1", "deaf:application")
    master = start(*command, MONGODB_URI=mongod.uri, PORT=str(free_port()))
    try:
        wait_until(lambda: pids.exists() and len(set(pids.read_text().split())) > 1, 20)
    finally:
        stop(master, 5)
