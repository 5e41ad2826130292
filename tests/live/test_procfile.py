"""The lines of the Procfile, run by honcho, and the environments that they refuse."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pymongo
import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod, launch
from chat_service.embedded.process import die_with_parent, free_port, stop
from chat_service.repository.database import Database
from tests.client import CHATS

HONCHO = [sys.executable, "-m", "honcho"]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"MONGODB_URI", "DYNO", "BIND"}}
    return {**inherited, "PATH": PATH, **variables}


def run_release(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the `release` line of the Procfile to its end."""
    (line,) = [line for line in (project / "Procfile").read_text().splitlines() if line.startswith("release:")]
    command = line.removeprefix("release:").split()
    return subprocess.run(
        [*HONCHO, "run", *command],
        cwd=project,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wait_for_status(url: str, status: int, seconds: float = 40) -> requests.Response:
    """Repeat a request until it is answered with the status; return that answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = requests.get(url, timeout=30)
        except requests.ConnectionError:
            time.sleep(0.05)
            continue
        if answer.status_code == status:
            return answer
        time.sleep(0.1)
    pytest.fail(f"{url} was not answered with {status} in {seconds} s.")


def test_release_web_and_worker(project: Path, mongod: EmbeddedMongod) -> None:
    """`release` prepares a new database, `web` serves on PORT with WEB_CONCURRENCY workers, `worker` purges."""
    uri = mongod.uri.replace("/chat_service?", "/of_procfile?")
    port = str(free_port())
    variables = {"MONGODB_URI": uri, "PORT": port, "WEB_CONCURRENCY": "1"}
    release = run_release(project, **variables)
    assert (release.returncode, release.stdout) == (0, "Collections and indexes are in place.\n")
    with pymongo.MongoClient(uri) as client:
        assert "messages" in client.get_default_database().list_collection_names()
    honcho = subprocess.Popen(
        [*HONCHO, "start", "web", "worker"],
        cwd=project,
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
    )
    try:
        wait_for_status(f"http://127.0.0.1:{port}/readyz", 200)
        assert requests.get(f"http://127.0.0.1:{port}{CHATS}", timeout=30).status_code == 401
    finally:
        stop(honcho, 30)


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[str]:
    """A mongod without a replica set."""
    port = free_port()
    process = launch(tmp_path, port, options=())
    uri = f"mongodb://127.0.0.1:{port}/chat"
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=20_000) as client:
        client.admin.command("ping")
    yield uri
    stop(process, 20)


def start_web(project: Path, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "asgi:application"],
        cwd=project,
        env=environment(**{"LOG_FORMAT": "console", **variables}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
    )


def test_a_standalone_is_refused(project: Path, standalone: str) -> None:
    """`release` and `web` refuse it and say what to do; the service never runs without transactions."""
    release = run_release(project, MONGODB_URI=standalone)
    assert release.returncode == 1
    web = start_web(project, MONGODB_URI=standalone, PORT=str(free_port()))
    web_output, _ = web.communicate(timeout=30)
    assert web.returncode != 0
    for output in (release.stdout + release.stderr, web_output):
        assert "rs.initiate()" in output
        assert "Traceback" not in output


def test_a_wrong_environment_is_refused_at_once(project: Path) -> None:
    """The refusal names every wrong variable, not only the first."""
    wrong = {"MONGODB_URI": "", "THREADS": "many", "MAX_BODY_BYTES": "1", "LOG_FORMAT": "xml"}
    web = start_web(project, **wrong)
    output, _ = web.communicate(timeout=30)
    assert web.returncode != 0
    assert "Traceback" not in output
    for name in wrong:
        assert f"{name}: " in output


def test_without_a_database_it_answers_503_until_there_is_one(project: Path, tmp_path: Path) -> None:
    """A service that starts before its database waits for it instead of crashing."""
    mongod = EmbeddedMongod(tmp_path)
    port = str(free_port())
    web = start_web(project, MONGODB_URI=mongod.uri, PORT=port, WEB_CONCURRENCY="1")
    try:
        not_ready = wait_for_status(f"http://127.0.0.1:{port}/readyz", 503)
        assert (not_ready.json()["code"], not_ready.headers["Retry-After"]) == ("database_unavailable", "2")
        began = time.monotonic()
        answer = requests.get(f"http://127.0.0.1:{port}{CHATS}", headers={"X-API-Key": "x"}, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert time.monotonic() - began < 30
        with mongod:
            with closing(Database(mongod.uri)) as database:
                database.prepare()  # as the release phase does
            assert wait_for_status(f"http://127.0.0.1:{port}/readyz", 200).json() == {"status": "ready"}
    finally:
        web.terminate()
        web.communicate(timeout=40)
