"""nginx with the site of deploy/nginx, in front of a service started as systemd would; both are ordinary processes."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from chat_service.embedded.process import die_with_parent, free_port, stop
from chat_service.embedded.service import EmbeddedGunicorn
from tests.wait import wait_until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

ACTIVATE = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&"$0"'
"""A bash command that starts a program on a socket, as systemd does for a socket unit (sd_listen_fds(3))."""

MAIN = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {}
http {
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path other;
    scgi_temp_path other;
    uwsgi_temp_path other;
    include site.conf;
}
"""


class ActivatedGunicorn(EmbeddedGunicorn):
    """The service on a socket that exists before it starts and after it has ended."""

    def __init__(self, mongodb_uri: str, **more: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(mongodb_uri, self._socket.getsockname()[1], **more)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start, and return the process of gunicorn's master."""
        serve = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "asgi:application"]
        self.process = subprocess.Popen(
            ["bash", "-c", ACTIVATE, str(self._socket.fileno()), *serve],
            env={**os.environ, **self._environment},
            stderr=self._output,
            pass_fds=[self._socket.fileno()],
            preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
        )
        return self.process

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()


class Nginx:
    """A running nginx; a context manager that stops it at the end."""

    def __init__(self, site: Path, folder: Path, service_port: int) -> None:
        assert NGINX is not None
        self.folder = folder
        self.port, self.clear_port = free_port(), free_port()
        self.certificate = folder / "fullchain.pem"
        _make_certificate(folder)
        (folder / "site.conf").write_text(self._filled_in(site.read_text(), service_port))
        (folder / "nginx.conf").write_text(MAIN)
        self._command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
        )
        wait_until(self._is_serving)
        return self

    def __exit__(self, *_: object) -> None:
        stop(self.process, 10)

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _filled_in(self, text: str, service_port: int) -> str:
        """Return the site with a reader's own values filled in, and with ports that need no privileges."""
        for documented, actual in (
            ("server 127.0.0.1:8000;", f"server 127.0.0.1:{service_port};"),
            ("/etc/letsencrypt/live/chat.example.com", str(self.folder)),
            ("chat.example.com", "localhost"),
            ("/var/log/nginx", str(self.folder)),
            ("listen 80;", f"listen 127.0.0.1:{self.clear_port};"),
            ("listen [::]:80;", ""),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("listen [::]:443 ssl http2 sndbuf=128k;", ""),
        ):
            assert documented in text
            text = text.replace(documented, actual)
        return text

    def _is_serving(self) -> bool:
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def _make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run([*command, "-days", "30", *names, *files], check=True, capture_output=True)
