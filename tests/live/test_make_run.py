"""`make run`, the first command of a newcomer, started and ended in every way."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import free_port

CHAT = "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"
KEY = {"X-API-Key": "your-tenant-api-key"}
START_SECONDS = 60


class Run:
    """One `make run` in its own folder."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}/api/v1/chats/{CHAT}"
        inherited = {name: value for name, value in os.environ.items() if name not in {"MONGODB_URI", "DYNO", "BIND"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chat_service.dev"],
            cwd=folder,
            env={**inherited, "PORT": str(port), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_until_serving(self) -> str:
        """Return what it printed until it served."""
        printed = ""
        while "Ctrl-C" not in printed:
            line = self.process.stdout.readline()
            assert line, printed
            printed += line
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5)
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.05)
            else:
                return printed
        pytest.fail("It does not serve.")

    def wait_until_refused(self) -> str:
        """Return what it printed until it refused to start."""
        printed, _ = self.process.communicate(timeout=START_SECONDS)
        assert self.process.returncode == 1
        return printed

    def descendants(self) -> list[int]:
        """Return the pids of everything it has started: its children and theirs."""
        descendants, generation = [], [self.process.pid]
        while generation:
            pgrep = subprocess.run(
                ["pgrep", "-P", ",".join(map(str, generation))], capture_output=True, text=True, check=False
            )
            generation = [int(pid) for pid in pgrep.stdout.split()]
            descendants += generation
        return descendants

    def end(self, signum: signal.Signals) -> str:
        """Send a signal, and check that no process remains; return what was printed meanwhile."""
        descendants = self.descendants()
        assert len(descendants) >= 4, "mongod, gunicorn, its worker and the purge worker"
        self.process.send_signal(signum)
        printed, _ = self.process.communicate(timeout=30)
        deadline = time.monotonic() + 30
        while remaining := [pid for pid in descendants if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, remaining
            time.sleep(0.05)
        return printed


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """The files that `make run` needs, without any data."""
    for name in ("wsgi.py", "asgi.py", "config.py", "gunicorn.conf.py", "chat_service"):
        (tmp_path / name).symlink_to(project / name)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Run]]:
    """Return a function that starts `make run`; what still runs at the end of the test is killed."""
    started: list[Run] = []

    def start(**environment: str) -> Run:
        started.append(Run(folder, int(environment.pop("PORT", free_port())), **environment))
        return started[-1]

    yield start
    for make_run in started:
        if make_run.process.poll() is None:
            make_run.process.kill()
        make_run.process.communicate(timeout=30)


def test_serves_and_keeps_its_data(run: Callable[..., Run], folder: Path) -> None:
    """It prints a page and a curl line that work when pasted; Ctrl-C leaves no process; a second start has the data."""
    first = run()
    printed = first.wait_until_serving()
    curl_line = re.search(r"Look: +(curl .*)", printed)[1]
    curl_output = subprocess.run(
        ["bash", "-c", curl_line], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert f'"id": "{CHAT}"' in curl_output
    assert '"message_count": 3' in curl_output
    page, _, fragment = re.search(r"Try it +(.*)", printed)[1].partition("#")
    assert fragment == "key=your-tenant-api-key"
    assert "<title>Chat service</title>" in requests.get(page, timeout=30).text
    assert requests.post(f"{first.url}/messages", json={"content": "kept"}, headers=KEY, timeout=30).status_code == 201
    log = first.end(signal.SIGINT)
    assert "process=worker" in log
    assert "{" not in log, "lines for people, also those of the worker"

    second = run()
    second.wait_until_serving()
    checkpoint = requests.get(f"http://127.0.0.1:{second.port}/api/v1/log/checkpoint", headers=KEY, timeout=30)
    assert checkpoint.text.startswith("chat-service/"), "signed by a key of its own"
    assert (folder / ".data" / "ledger.db").exists()
    page = requests.get(f"{second.url}/messages?order=desc&limit=1", headers=KEY, timeout=30).json()
    assert page["items"][0]["content"] == "kept"
    second.end(signal.SIGKILL)


def test_a_deleted_demo_chat_stays_deleted(run: Callable[..., Run]) -> None:
    """The next start says so, and serves all the same."""
    first = run()
    first.wait_until_serving()
    assert requests.delete(first.url, headers=KEY, timeout=30).json()["success"] is True
    first.end(signal.SIGTERM)
    second = run()
    assert "make clean-data" in second.wait_until_serving()
    assert requests.get(second.url, headers=KEY, timeout=30).status_code == 404


def test_uses_the_server_in_mongodb_uri(run: Callable[..., Run], folder: Path, mongod: EmbeddedMongod) -> None:
    """It starts no mongod of its own."""
    uri = mongod.uri.replace("/chat_service?", "/of_make_run?")
    running = run(MONGODB_URI=uri)
    assert uri in running.wait_until_serving()
    assert requests.get(running.url, headers=KEY, timeout=30).status_code == 200
    assert not (folder / ".data").exists()


def one_sentence(printed: str) -> str:
    """Return the only line that is printed besides those of the start."""
    (line,) = [line for line in printed.splitlines() if not line.startswith("Starting")]
    assert line.startswith("make run: ")
    return line


def test_refuses_a_port_in_use(run: Callable[..., Run]) -> None:
    """The refusal names the port and says how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"Port {port} cannot be used" in one_sentence(run(PORT=str(port)).wait_until_refused())


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_refuses_what_is_no_port(folder: Path, port: str) -> None:
    """The refusal repeats the value that was given."""
    refused = Run(folder, 0, PORT=port)
    assert f"PORT is '{port}'" in one_sentence(refused.wait_until_refused())


def test_says_what_to_do_without_a_mongod(run: Callable[..., Run], folder: Path) -> None:
    """It refuses if MONGOD does not name an executable file."""
    assert "not an executable file" in one_sentence(run(MONGOD=str(folder / "nothing")).wait_until_refused())


def test_refuses_a_data_directory_that_is_a_file(run: Callable[..., Run], folder: Path) -> None:
    """It leaves the file as it is."""
    (folder / ".data").write_text("mine")
    assert "cannot be made" in one_sentence(run().wait_until_refused())
    assert (folder / ".data").read_text() == "mine"


def test_refuses_broken_data(run: Callable[..., Run], folder: Path) -> None:
    """The refusal names the log that has the reason."""
    database = folder / ".data" / "db"
    database.mkdir(parents=True)
    (database / "WiredTiger").write_text("broken")
    (database / "WiredTiger.turtle").write_text("broken")
    sentence = one_sentence(run().wait_until_refused())
    assert "may be broken" in sentence
    assert "mongod.log" in sentence


def test_refuses_data_in_use(run: Callable[..., Run], folder: Path) -> None:
    """It refuses data that another mongod uses."""
    with EmbeddedMongod(folder / ".data"):
        assert "in use by another mongod" in one_sentence(run().wait_until_refused())


def test_refuses_the_published_key_for_another_machine(run: Callable[..., Run]) -> None:
    """Everybody knows that key, so a database on another machine needs another DEMO_API_KEY."""
    sentence = one_sentence(run(MONGODB_URI="mongodb://db.example.com/chat").wait_until_refused())
    assert "DEMO_API_KEY" in sentence
