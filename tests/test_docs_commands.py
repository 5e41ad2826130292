"""The commands in README and docs: each that is shown is run as it is written, in order; each that is named exists."""

import re
import shlex
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from flask import Flask

from chat_service.api.context import Repositories
from chat_service.proof.ledger_file import LedgerFile
from chat_service.repository.database import Database
from tests.recovery.conftest import serve

PROJECT = Path(__file__).parent.parent

PAGES = sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "README.md", *PROJECT.glob("docs/**/*.md")))

SHOWN = re.compile(r"^ {4}(?:\S*/)?flask --app wsgi ([^#\n]+)", re.MULTILINE)

NAMED = re.compile(r"`flask (?:--app wsgi )?([a-z][^`]*)`")

ENDS_WITH_ONE = {
    "tenants proof": "no worker has deleted the tenant yet",
    "status": "no worker runs",
    "log status": "no worker runs",
}

RUNS_FOR_EVER = {"jobs run"}


@pytest.fixture
def either_database(database: Database) -> Database:
    """A real database only: mongomock does not run every command."""
    return database


@pytest.fixture
def app(routes: Flask, database: Database, tmp_path: Path) -> Flask:
    serve(routes, database, LedgerFile(tmp_path / "ledger.db"))
    return routes


@pytest.mark.parametrize("page", [page for page in PAGES if SHOWN.search((PROJECT / page).read_text())])
def test_each_that_is_shown_runs(app: Flask, page: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    repos = Repositories.of(app.extensions)
    tenant_id = repos.tenants.create("A customer").id
    for line in SHOWN.findall((PROJECT / page).read_text()):
        key_id = repos.keys.create(tenant_id, "", [])[1].id if "<key id>" in line else ""
        command = shlex.split(line.replace("<tenant id>", tenant_id).replace("<key id>", key_id))
        name = " ".join(command[:2])
        if name in RUNS_FOR_EVER and "--until-idle" not in command:
            continue
        result = app.test_cli_runner().invoke(args=command)
        assert result.exit_code == (1 if name in ENDS_WITH_ONE else 0), (line, result.output)


@pytest.mark.parametrize("page", [page for page in PAGES if NAMED.search((PROJECT / page).read_text())])
def test_each_that_is_named_is_there(app: Flask, page: str) -> None:
    for line in NAMED.findall((PROJECT / page).read_text()):
        require(app.cli, re.split(r"[ \n]+", line), line)


def test_each_module_target_and_extra_that_is_named_is_there() -> None:
    """For what takes too long to be run here: benchmarks, soaks, and what installs something."""
    text = "\n".join((PROJECT / page).read_text() for page in (*PAGES, "CONTRIBUTING.md", "benchmarks/README.md"))
    modules = set(re.findall(r"python3? -m ([\w.]*\w)", text))
    targets = set(re.findall(r"(?:`|^ {4})make ([a-z][\w-]*)", text, re.MULTILINE))
    extras = set(re.findall(r"\.\[(\w+)\]'", text))
    setup = ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    assert "tests.soak.fairness" in modules
    assert "soak" in targets
    assert [module for module in sorted(modules) if find_spec(module) is None] == []
    assert targets - set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)) == set()
    assert extras == {"otel"} & set(setup["options.extras_require"])


def require(group: click.Group, words: list[str], line: str) -> None:
    """Assert that the words name commands of a group and of its subgroups; `a|b` names two."""
    for word in words[0].split("|"):
        assert word in group.commands, line
        inner = group.commands[word]
        if isinstance(inner, click.Group) and len(words) > 1 and words[1][0].isalpha():
            require(inner, words[1:], line)
