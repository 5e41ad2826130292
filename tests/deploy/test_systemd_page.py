"""docs/deploy/systemd.md: its commands, as they stand there, on a new machine; no request is lost by an upgrade."""

import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest

from chat_service.embedded.mongod import EmbeddedMongod
from tests.deploy.load import Load
from tests.deploy.machine import PROGRAMS, Shell, machine

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

HEADING = re.compile(r"^## (?:\d\. )?", re.MULTILINE)

BLOCK = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)

NEEDS_A_PUBLIC_NAME = "certbot"

NEW_VERSION = "v99.0.0"

EDITOR = """#!/bin/sh
sed -i "s#^MONGODB_URI=.*#MONGODB_URI='{uri}'#" "$1"
"""


def blocks(page: Path, section: str) -> list[str]:
    """Return the blocks of commands of a section that can be run without a public host name."""
    (text,) = [text for text in HEADING.split(page.read_text()) if text.startswith(f"{section}\n")]
    found = [textwrap.dedent(block) for block in BLOCK.findall(text)]
    return [block for block in found if NEEDS_A_PUBLIC_NAME not in block]


class Site:
    """The machine after each section of the page, whose commands run in one shell."""

    def __init__(self, project: Path, root: Path, shell: Shell, uri: str) -> None:
        self.shell, self.pages = shell, project / "docs/deploy"
        self._serve_the_repository(project, root)
        editor = root / "usr/local/bin/editor"
        editor.write_text(EDITOR.format(uri=uri))
        editor.chmod(0o755)

    def _serve_the_repository(self, project: Path, root: Path) -> None:
        """Put this checkout where the page's address leads, as the version of the page and as a newer one."""
        (first,) = blocks(self.pages / "systemd.md", "The code")
        address = re.search(r"https://\S+\.git", first)
        version = re.search(r"VERSION=(\S+)", first)
        assert address
        assert version
        repository = root / "srv/chat-service.git"
        subprocess.run(["git", "clone", "--quiet", "--bare", project, repository], check=True)
        for tag in (version[1], NEW_VERSION):
            subprocess.run(["git", "-C", repository, "tag", "--force", tag], check=True, stdout=subprocess.DEVNULL)
        (root / "etc/gitconfig").write_text(f'[url "file:///srv/chat-service.git"]\n\tinsteadOf = {address[0]}\n')

    def follow(self, section: str, page: str = "systemd.md") -> str:
        """Run the commands of a section, and return what they print."""
        return "".join(self.shell.run(block) for block in blocks(self.pages / page, section))

    def running(self) -> str:
        """Return the folders of the versions whose code the service's processes run."""
        return self.shell.run("readlink /proc/$(systemctl show --value -p MainPID chat-service-web)/cwd")

    def see_that_it_works(self, name: str) -> str:
        """Run the commands of the section that every page refers to, and return what they print."""
        self.shell.run(f"BASE=https://{name}/api/v1")
        return self.follow("See that it works", "README.md")


@pytest.fixture(scope="module")
def site(mongod: EmbeddedMongod, project: Path, tmp_path_factory) -> Iterator[Site]:
    """The service as the page installs and starts it, with the first tenant."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(missing)} not on this machine")
    with machine(tmp_path_factory.mktemp("machine")) as (root, shell):
        site = Site(project, root, shell, mongod.uri)
        site.follow("The code")
        site.follow("Settings and secrets")
        assert '{"status": "ready"}' in site.follow("Start")
        assert site.follow("The first tenant").strip()
        yield site


def assert_it_works(printed: str) -> None:
    assert " 200" in printed
    assert '"content":"Hello"' in printed
    assert printed.index("event: chat.deleted") < printed.index("event: chat.purged")


def test_behind_nginx(site: Site) -> None:
    site.follow("nginx")
    assert_it_works(site.see_that_it_works("chat.example.com"))
    site.shell.run("systemctl disable --now nginx")


def test_behind_caddy(site: Site) -> None:
    """With a certificate of its own, as the page says for one that has no public name."""
    site.follow("Or Caddy")
    site.shell.run("sed -i '/^chat.example.com {/a tls internal' /etc/caddy/Caddyfile; systemctl reload caddy")
    site.shell.run("grep -q chat.example.com /etc/hosts || echo 127.0.0.1 chat.example.com >> /etc/hosts")
    root = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
    site.shell.run(f"export CURL_CA_BUNDLE={root} SSL_CERT_FILE={root}; cd /opt/chat-service/current")
    site.shell.run("until curl -sSf https://chat.example.com/healthz; do sleep 0.5; done 2> /dev/null")
    assert_it_works(site.see_that_it_works("chat.example.com"))
    site.shell.run("systemctl disable --now caddy")


def test_no_request_is_lost_by_an_upgrade_and_back(site: Site) -> None:
    site.shell.run("unset CURL_CA_BUNDLE SSL_CERT_FILE  # for pip would trust only the certificate of a trial")
    version = site.shell.run("echo $VERSION").strip()
    key = site.shell.run("echo $KEY").strip()
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    load = Load(partial(HTTPConnection, "127.0.0.1", 8000, timeout=60), headers, False)
    try:
        (first,) = blocks(site.pages / "systemd.md", "The code")
        site.shell.run("cd /; VERSION=" + first.partition("VERSION=")[2].replace(version, NEW_VERSION))
        upgrade, back = blocks(site.pages / "systemd.md", "Upgrade, and back")
        site.shell.run(upgrade)
        assert NEW_VERSION in site.running()
        site.shell.run(back)
        assert version in site.running()
    finally:
        statuses = load.end()
    assert len(load.statuses) > 100
    assert statuses == {201}
