"""The documentation at /docs/ and /problems: it is complete, its links work, and it needs no network."""

import re
import socket
from pathlib import Path

import pytest
from flask import Flask

from chat_service.api import problems
from chat_service.app import create_app
from chat_service.page import guides
from chat_service.settings import Settings
from tests.forked import ForkedGunicorn
from tests.mock_database import MockDatabase
from tests.page.conftest import PUBLIC_URL


@pytest.fixture
def either_database() -> MockDatabase:
    """An empty database: no page reads it."""
    return MockDatabase()


def links(html: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="([^"]+)"', html))


@pytest.mark.parametrize("name", sorted(guides.names()))
def test_every_page_is_served_and_its_links_work(app: Flask, name: str) -> None:
    client = app.test_client()
    answer = client.get(f"/docs/{name}")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    html = answer.get_data(as_text=True)
    assert "<script" not in html
    assert "<h1" in html
    for link in links(html):
        address, _, fragment = link.partition("#")
        if address.startswith("http"):
            continue
        target = client.get(address or f"/docs/{name}")
        assert target.status_code == 200, link
        assert not fragment or f'id="{fragment}"' in target.get_data(as_text=True), link


def test_the_index_links_every_page_but_the_decisions(app: Flask) -> None:
    html = app.test_client().get("/docs/").get_data(as_text=True)
    pages = {name for name in guides.names() if "/" not in name and name != "README"}
    assert {f"/docs/{name}" for name in pages} <= links(html[html.index("<main>") :])


@pytest.mark.parametrize("name", ["../README", "%2e%2e/README", "guides.py", "api.md", "decisions", "decisions/", "x"])
def test_no_other_file_is_served(app: Flask, name: str) -> None:
    answer = app.test_client().get(f"/docs/{name}")
    assert answer.status_code == 404
    assert answer.get_json()["code"] == "not_found"


class TestProblems:
    def test_each_is_explained_with_its_status(self, project: Path) -> None:
        text = (project / "docs/problems.md").read_text()
        sections = re.findall(
            r"^## (\w+)\n\n\*\*(\d+) ([^*\n]+)\.\*\* [^#]+?\n\n\*\*What to do\.\*\* \S", text, re.MULTILINE
        )
        by_code = {problem.code: problem for problem in (*problems.HTTP.values(), *problems.DOMAIN.values())}
        assert {code for code, _, _ in sections} == by_code.keys()
        statuses = {(one.code, str(one.status)) for one in (*problems.HTTP.values(), *problems.DOMAIN.values())}
        assert {(code, status) for code, status, _ in sections} == statuses
        assert len(sections) == len(by_code)

    def test_a_browser_is_redirected_and_a_program_gets_json(self, app: Flask) -> None:
        client = app.test_client()
        answer = client.get("/problems/chat-not-found", headers={"Accept": "text/html,*/*;q=0.8"})
        assert (answer.status_code, answer.headers["Location"]) == (302, "/problems#chat_not_found")
        assert 'id="chat_not_found"' in client.get("/problems").get_data(as_text=True)
        assert client.get("/problems/chat-not-found").get_json()["type"] == "/problems/chat-not-found"

    def test_the_type_is_absolute_if_the_service_knows_its_address(self) -> None:
        settings = Settings("unused", 2**20, threads=8, log_format="json", public_url=PUBLIC_URL)
        client = create_app(settings, MockDatabase()).test_client()
        type_ = f"{PUBLIC_URL}/problems/not-found"
        assert client.get("/nothing").get_json()["type"] == type_
        assert client.get("/problems/not-found").get_json()["type"] == type_

    def test_the_type_is_absolute_in_errors_from_the_server_too(self, service: ForkedGunicorn) -> None:
        with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert f'"type": "{PUBLIC_URL}/problems/bad-request"'.encode() in answer
