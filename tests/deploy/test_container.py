"""deploy/Containerfile: what it copies serves on a read-only file system, and its steps run as an ordinary user.

No builder is needed. Only `make soak` runs the steps themselves, in an environment of their own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import die_with_parent, free_port, stop
from chat_service.server.shared_files import MEMORY
from tests.client import CHATS, TenantAccess
from tests.deploy.containerfile import Containerfile
from tests.mounts import InOwnMounts
from tests.wait import wait_until

BODY_FOLDER = "/var/tmp"  # noqa: S108 - instead of the image's /tmp, where this checkout and its environment may lie
NOBODY = 65534

READ_ONLY = (
    'mount --bind "$PWD" "$PWD" && mount -o remount,bind,ro "$PWD" && cd "$PWD" && mount -o remount,bind,ro / && '
    f"mount -t tmpfs tmpfs {BODY_FOLDER} && mount -t tmpfs -o size=64m tmpfs {MEMORY} && ! touch here 2>/dev/null"
)
"""Makes all but two folders read-only, for the service that starts in the image's folder; fails if that is writable."""


@pytest.fixture(scope="module")
def containerfile(project: Path) -> Containerfile:
    return Containerfile(project)


def copy(project: Path, containerfile: Containerfile, folder: Path) -> None:
    """Copy to a folder what the image gets of the project."""
    for name in containerfile.copied:
        if (project / name).is_dir():
            shutil.copytree(project / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(project / name, folder / name)


@pytest.fixture
def service(
    mongod: EmbeddedMongod, project: Path, containerfile: Containerfile, tmp_path: Path
) -> Iterator[InOwnMounts]:
    """The service with only what the image has, where nothing else can be written."""
    copy(project, containerfile, tmp_path)
    variables = {**containerfile.variables, "TMPDIR": BODY_FOLDER, "WEB_CONCURRENCY": "1", "MAX_BODY_BYTES": "1024"}
    port = free_port()
    variables.update(BIND=f"127.0.0.1:{port}", PATH=os.environ["PATH"])
    log_file = tmp_path.with_suffix(".said")
    with (
        log_file.open("wb") as output,
        InOwnMounts(READ_ONLY, mongod.uri, port, output=output, folder=tmp_path, **variables) as running,
    ):
        yield running
    assert "cannot be written" not in log_file.read_text()


def test_what_it_copies_serves_where_nothing_can_be_written(
    service: InOwnMounts, containerfile: Containerfile, live
) -> None:
    """It writes only heartbeats and bodies that arrive; its health check passes until the service stops."""
    access: TenantAccess = live[1]()
    address = f"http://127.0.0.1:{service.port}"
    for path in ("/readyz", "/docs", "/docs/", "/verify"):
        assert requests.get(f"{address}{path}", timeout=30).status_code == 200
    response = requests.post(
        f"{address}{CHATS}/import",
        data=b"x" * 2**20,
        headers={**access.headers, "Content-Type": "application/x-ndjson"},
        timeout=30,
    )
    assert response.json()["code"] == "invalid_import", "it was taken in"
    python, *check = [part.replace(":8000", f":{service.port}") for part in containerfile.health_check]
    assert python == "python3"
    assert subprocess.run([sys.executable, *check], check=False).returncode == 0
    service.stop()
    assert subprocess.run([sys.executable, *check], check=False, capture_output=True).returncode != 0


def test_it_serves_with_what_the_procfile_says(project: Path, containerfile: Containerfile) -> None:
    assert f"web: {' '.join(containerfile.command)}" in (project / "Procfile").read_text().splitlines()


def test_it_is_locked_and_no_user_of_its_own(containerfile: Containerfile) -> None:
    installs = [step for step in containerfile.all("RUN") if "pip install" in step]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    (user,) = containerfile.all("USER")
    assert all(int(number) > 0 for number in user.split(":"))
    assert containerfile.stages[-1].index(("USER", user)) > 0, "in what is kept, and not where it is built"
    assert containerfile.all("STOPSIGNAL") == ["SIGTERM"]


def test_a_builder_is_given_what_it_copies(project: Path, containerfile: Containerfile) -> None:
    """A builder gets nothing else: no virtual environment, data or history."""
    lines = (project / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(containerfile.copied)
    assert "*" in lines


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach; pytest's folders they cannot."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.soak
def test_its_steps(mongod: EmbeddedMongod, project: Path, containerfile: Containerfile, folder: Path) -> None:
    """The steps that build run with Debian's Python as an ordinary user; then what they built serves as that user."""
    copy(project, containerfile, folder)
    run_as = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    if run_as:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name not in {"DYNO", "PYTHONPATH"}},
        **containerfile.variables,
        "PATH": f"{folder}/venv/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "BIND": f"127.0.0.1:{port}",
        "MONGODB_URI": mongod.uri,
    }
    for name, step in containerfile.stages[0]:
        if name == "RUN":
            command = step.replace("/opt/venv", f"{folder}/venv").replace("/srv", str(folder))
            subprocess.run(["sh", "-ec", command], cwd=folder, env=environment, check=True, timeout=300, **run_as)
    with ExitStack() as stack:
        web = subprocess.Popen(
            containerfile.command,
            cwd=folder,
            env=environment,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
            **run_as,
        )
        stack.callback(stop, web, 30)
        address = f"http://127.0.0.1:{port}/readyz"
        wait_until(lambda: _status(address) == 200)


def _status(address: str) -> int:
    try:
        return requests.get(address, timeout=30).status_code
    except requests.ConnectionError:
        return 0
