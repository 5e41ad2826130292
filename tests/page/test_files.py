"""The chat page's files: where they are served, and with which policy. The other tests of this folder use the page."""

import re
from functools import cache

import pytest
from flask import Flask

from chat_service.app import create_app
from chat_service.page import chat as page
from chat_service.settings import Settings
from tests.mock_database import MockDatabase


@cache
def served(*, chat_page: bool) -> Flask:
    return create_app(Settings("unused", 1024, threads=1, log_format="json", chat_page=chat_page), MockDatabase())


def test_by_default_there_is_no_chat_page() -> None:
    answer = served(chat_page=False).test_client().get("/")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in sorted(page.FILES))])
def test_it_has_a_strict_policy(path: str) -> None:
    """Caches revalidate it, so that a deploy takes effect at once."""
    answer = served(chat_page=True).test_client().get(path)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-cache"
    answer.close()
    text = (page.FOLDER / (path.rpartition("/")[2] or "index.html")).read_text()
    assert not re.search(r"""https?://(?!www\.w3\.org/2000/svg)|\s(style|on[a-z]+)="|innerHTML""", text)


@pytest.mark.parametrize("name", ["index.html", "../docs/docs.html", "%2e%2e/docs/docs.html", "none", "."])
def test_nothing_else_of_the_folders_is_served(name: str) -> None:
    assert served(chat_page=True).test_client().get(f"/page/{name}").status_code == 404


def test_every_imported_module_is_served() -> None:
    """Modules import each other by relative paths, so that no build step is needed."""
    for name in page.FILES:
        if name.endswith(".js"):
            text = (page.FOLDER / name).read_text()
            assert {module[2:] for module in re.findall(r'from "(.+)"', text)} <= page.FILES
