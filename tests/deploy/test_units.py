"""deploy/systemd: systemd accepts the units, and they run the Procfile's commands."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.settings import SHUTDOWN_SECONDS, known_settings

CURRENT = "/opt/chat-service/current"

MAX_EXPOSURE = 15
"""The most, of 100, that `systemd-analyze security` may find; what it finds is that the service uses the network."""

UNITS = ["release", "web", "worker"]


@pytest.fixture(scope="module")
def units(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as if the service were installed, because systemd looks for the programs."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    folder = tmp_path_factory.mktemp("units")
    current = tmp_path_factory.mktemp("current")
    (current / ".venv").mkdir()
    (current / ".venv/bin").symlink_to(Path(sys.executable).parent)
    shutil.copytree(project / "deploy/systemd", folder, dirs_exist_ok=True)
    for file in (*folder.glob("*.service"), *folder.glob("*/*.conf")):
        file.write_text(file.read_text().replace(CURRENT, str(current)))
    return folder


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The colon at the end adds systemd's own units, such as network-online.target.
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, cwd=units, env=environment, capture_output=True, text=True, check=False)


def test_systemd_knows_every_line(units: Path) -> None:
    files = [file.name for file in units.iterdir() if file.suffix in {".service", ".socket"}]
    assert len(files) == len(UNITS) + 1
    result = analyze(units, "verify", *files)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_has_its_walls(units: Path, name: str) -> None:
    result = analyze(units, "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", f"chat-service-{name}.service")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_what_the_procfile_says(project: Path, name: str) -> None:
    (line,) = [line for line in (project / "Procfile").read_text().splitlines() if line.startswith(f"{name}: ")]
    assert read_unit(project, name)["ExecStart"] == f"{CURRENT}/.venv/bin/{line.removeprefix(f'{name}: ')}"


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_unit_waits_for_what_is_in_flight(project: Path, name: str) -> None:
    assert int(read_unit(project, name)["TimeoutStopSec"]) > SHUTDOWN_SECONDS


def test_the_proxies_ask_where_the_socket_listens(project: Path) -> None:
    socket = read_unit(project, "web", "socket")["ListenStream"]
    for file in ("nginx/chat-service.conf", "caddy/Caddyfile"):
        assert socket in (project / "deploy" / file).read_text()


def test_the_settings_exist(project: Path) -> None:
    lines = (project / "deploy/systemd/chat-service.env").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if not line.startswith("#")}
    assert names
    assert names <= known_settings(project)


def read_unit(project: Path, name: str, kind: str = "service") -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[method-assign, assignment]  # keeps the case of names
    unit.read(project / f"deploy/systemd/chat-service-{name}.{kind}")
    return unit[kind.title()]
