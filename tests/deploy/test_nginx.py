"""A real nginx, with the site of deploy/nginx, between callers over TLS and the service."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import websocket

from chat_service.models import NewMessage, Role
from chat_service.repository.messages import Messages
from tests.client import CHATS, TenantAccess
from tests.conftest import tenant_maker
from tests.deploy.load import Load
from tests.deploy.nginx import NGINX, ActivatedGunicorn, Nginx
from tests.failpoint import FailPoint
from tests.wait import wait_until
from tests.workers import children_of, workers_of

BLOCK_SECONDS = 1.0
COOKIE_BYTES = 15 * 2**10
NGINX_BODY_BYTES = 2**20
"""The largest body that nginx lets through by default."""

BUFFERED_BYTES = 2 * 2**20
"""The most of an export that arrives when its chat is deleted: what the buffers of two connections hold."""


class Front(NamedTuple):
    """The service as its callers reach it."""

    nginx: Nginx
    service: ActivatedGunicorn
    log_file: Path
    access: TenantAccess

    def send(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {**self.access.headers, **more.pop("headers", {})}
        url = f"{self.nginx.address}{path}"
        return requests.request(method, url, headers=headers, verify=str(self.nginx.certificate), timeout=30, **more)

    def new_chat(self) -> str:
        chat_id: str = self.send("POST", CHATS, json={}).json()["id"]
        return chat_id

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.nginx.certificate)


@pytest.fixture(scope="module")
def running(mongod, real_database, project: Path, tmp_path_factory) -> Iterator[tuple[Nginx, ActivatedGunicorn, Path]]:
    """nginx, the service behind it, and the service's log file."""
    if NGINX is None:
        pytest.skip("there is no nginx on this machine")
    del real_database  # its collections are in place
    folder = tmp_path_factory.mktemp("nginx")
    log_file = folder / "said"
    with (
        log_file.open("wb") as output,
        ActivatedGunicorn(mongod.uri, output=output, WEB_CONCURRENCY="1") as service,
        Nginx(project / "deploy/nginx/chat-service.conf", folder, service.port) as nginx,
    ):
        yield nginx, service, log_file
    assert (folder / "chat-service.error.log").read_text() == ""


@pytest.fixture
def front(running, database) -> Front:
    return Front(*running, tenant_maker(database)())


def test_a_request_is_what_it_was(front: Front) -> None:
    """Nginx passes on the request's id and that it came over TLS, but replaces the client's X-Request-Start."""
    wrong_start = f"t={time.time() + 1_000:.3f}"
    response = front.send("GET", CHATS, headers={"X-Request-ID": "by-the-caller", "X-Request-Start": wrong_start})
    assert response.status_code == 200
    assert response.headers["X-Request-ID"] == "by-the-caller"
    assert "Strict-Transport-Security" in response.headers
    assert "X-Request-Start" not in front.log_file.read_text(), "the service would say that a clock is wrong"


def test_a_key_in_the_clear_is_refused(front: Front) -> None:
    clear = f"http://127.0.0.1:{front.nginx.clear_port}"
    assert requests.get(f"{clear}{CHATS}", headers=front.access.headers, timeout=30).status_code == 403
    page = requests.get(f"{clear}/docs?a=b", headers={"Host": "localhost"}, timeout=30, allow_redirects=False)
    assert (page.status_code, page.headers["Location"]) == (308, "https://localhost/docs?a=b")


def test_metrics_are_not_for_everybody(front: Front) -> None:
    assert front.send("GET", "/metrics").status_code == 404
    assert front.send("GET", "/healthz").status_code == 200


def test_connections_to_the_service_are_kept(front: Front) -> None:
    """Each client has its own connection to nginx; nginx has one to the service for all of them."""
    front.send("GET", CHATS)
    before = _connections_to(front.service.port)
    for _ in range(10):
        assert front.send("GET", CHATS).status_code == 200
    assert len(_connections_to(front.service.port) - before) <= 1


def _connections_to(port: int) -> set[str]:
    """Return the local addresses that have, or recently had, a connection to a local port."""
    return {line[LOCAL] for line in _tcp_rows() if line[REMOTE].endswith(f":{port:04X}")}


LOCAL, REMOTE, QUEUES = 1, 2, 4


def _tcp_rows() -> list[list[str]]:
    """Return the kernel's table of connections (proc_net_tcp)."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def test_websockets(front: Front) -> None:
    """A program connects with its key, a page of the same origin with a ticket; each receives the messages of both."""
    url = f"wss://127.0.0.1:{front.nginx.port}{CHATS}/{front.new_chat()}"
    options = {"sslopt": {"ca_certs": str(front.nginx.certificate)}, "timeout": 15}
    ticket = front.send("POST", f"{url.partition(str(front.nginx.port))[2]}/tickets").json()["ticket"]
    with (
        closing(websocket.create_connection(f"{url}/ws", header=front.access.headers, **options)) as program,
        closing(
            websocket.create_connection(f"{url}/ws?ticket={ticket}", origin=front.nginx.address, **options)
        ) as page,
    ):
        for sender in (program, page):
            sender.send(json.dumps({"type": "message.create", "content": "Hello"}))
            for receiver in (program, page):
                assert json.loads(receiver.recv())["message"]["content"] == "Hello"


@pytest.mark.usefixtures("sequencer")
def test_events_come_as_they_happen(front: Front) -> None:
    """The docs' command gets events over HTTP/2 at once, though nothing follows them that would fill a buffer."""
    chat_id = front.new_chat()
    headers = ["-H", f"X-API-Key: {front.access.key}", "-H", "Accept: text/event-stream"]
    ca = ["--cacert", str(front.nginx.certificate)]
    url = f"{front.nginx.address}/api/v1/log"
    command = ["curl", "-sS", "-N", "-m", "60", "--http2", *ca, *headers, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        assert curl.stdout.readline() == "retry: 2000\n"
        assert front.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
        lines = [next(line for line in curl.stdout if line.startswith("event:")) for _ in range(2)]
        curl.send_signal(signal.SIGTERM)
    assert lines == ["event: chat.deleted\n", "event: chat.purged\n"]


@contextmanager
def export(front: Front, chat_id: str) -> Iterator[http.client.HTTPResponse]:
    """Request an export and read only its first byte; a small receive buffer leaves the rest to the senders."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", front.nginx.port))
    with closing(http.client.HTTPSConnection("127.0.0.1", timeout=30)) as connection:
        connection.sock = front.tls.wrap_socket(raw, server_hostname="127.0.0.1")
        connection.request("GET", f"{CHATS}/{chat_id}/export?format=ndjson", headers=front.access.headers)
        with connection.getresponse() as response:
            assert (response.status, response.read(1)) == (200, b"{")
            yield response


class _Stall:
    """Whether the service's send queue is stuck: not empty, and as long as at the previous call."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._queued = 0

    def __call__(self) -> bool:
        rows = [row for row in _tcp_rows() if row[LOCAL].endswith(f":{self._port:04X}")]
        before, self._queued = self._queued, sum(int(row[QUEUES].partition(":")[0], 16) for row in rows)
        return 0 < before == self._queued


def test_an_export_is_not_kept_on_its_way(front: Front, database) -> None:
    """An export ends when its chat is deleted; a proxy with a buffer would go on sending."""
    chat_id = front.new_chat()
    for _ in range(12):
        batch = [NewMessage(Role.USER, "x" * 1_000, None, {})] * 1_000
        Messages(database).append(front.access.tenant_id, chat_id, batch)
    with export(front, chat_id) as stream:
        wait_until(_Stall(front.service.port), every=0.2)
        assert front.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
        with pytest.raises(http.client.IncompleteRead) as cut:
            stream.read()
    assert len(cut.value.partial) < BUFFERED_BYTES


def test_the_service_says_what_is_too_large(front: Front) -> None:
    """Nginx lets through what it refuses by default; the service refuses, in its own format."""
    batch = {"messages": [{"content": "x" * 2_000}] * 800}
    assert len(json.dumps(batch)) > NGINX_BODY_BYTES
    assert front.send("POST", f"{CHATS}/{front.new_chat()}/messages", json=batch).status_code == 201
    response = front.send("POST", CHATS, data=b" " * 5 * 2**20)
    assert (response.status_code, response.json()["code"]) == (413, "content_too_large")
    cookie = {"Cookie": "c=" + "x" * COOKIE_BYTES}
    assert front.send("GET", CHATS, headers=cookie).status_code == 200


def test_a_body_without_a_good_key_is_not_waited_for(front: Front) -> None:
    """Nginx does not read the body first: the service refuses the request by its headers."""
    head = f"POST {CHATS} HTTP/1.1\r\nHost: x\r\nX-API-Key: none\r\nContent-Length: {NGINX_BODY_BYTES}\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", front.nginx.port), 30) as raw,
        front.tls.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(head.encode() + b"{")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_delete_is_not_sent_once_more(front: Front, failpoint: FailPoint) -> None:
    """Nginx does not retry a DELETE whose response is lost: the retry would find no such chat."""
    chat_id = front.new_chat()
    has_begun = failpoint.block("commitTransaction", seconds=BLOCK_SECONDS, times=1)
    with ThreadPoolExecutor() as pool:
        response = pool.submit(front.send, "DELETE", f"{CHATS}/{chat_id}")
        has_begun()
        (worker,) = workers_of(front.service)
        os.kill(worker, signal.SIGKILL)
        assert response.result().status_code == 502
    wait_until(lambda: front.send("GET", f"{CHATS}/{chat_id}").status_code in {200, 404})


def test_its_log_has_no_queries(front: Front) -> None:
    """Nginx's logs have no query strings, which hold tickets and names; nor do they have keys."""
    chat_id = front.new_chat()
    assert front.send("GET", f"{CHATS}/{chat_id}/messages?ticket=told-once").status_code == 422
    log = front.nginx.folder / "chat-service.log"
    wait_until(lambda: f"GET {CHATS}/{chat_id}/messages 422" in log.read_text())
    for file in front.nginx.folder.glob("*.log"):
        assert "told-once" not in file.read_text()
        assert front.access.key not in file.read_text()


def _reload_nginx(front: Front) -> None:
    before = children_of(front.nginx.process.pid)
    front.nginx.process.send_signal(signal.SIGHUP)
    wait_until(lambda: before.isdisjoint(children_of(front.nginx.process.pid)))


def _reload_service(front: Front) -> None:
    before = workers_of(front.service)
    assert front.service.process is not None
    front.service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: before.isdisjoint(workers_of(front.service)))


def _restart_service(front: Front) -> None:
    """As `systemctl restart` does, with the socket that systemd keeps."""
    front.service.stop()
    front.service.start()


@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        # nginx closes idle connections, even if a request is on its way on one: the client has to repeat that.
        (_reload_nginx, [False, False, False]),
        (_reload_service, [True, True, False]),
        (_restart_service, [True, True, False]),
    ],
)
def test_no_request_is_lost(front: Front, change: Callable[[Front], None], keeps: list[bool]) -> None:
    """Each request is answered while nginx or the service is replaced; during a restart, requests wait for its end."""
    connect = partial(http.client.HTTPSConnection, "127.0.0.1", front.nginx.port, timeout=60, context=front.tls)
    load = Load(connect, front.access.headers, *keeps)
    load.wait_for_more()
    change(front)
    load.wait_for_more()
    assert load.end() == {201}
