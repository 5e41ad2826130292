"""Rules for the source code as a whole."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from pkgutil import iter_modules

from chat_service import repository

ROOT = Path(__file__).parents[1]

MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "chat_service").rglob("*.py") if path.stem != "__init__")

MIRRORED = {Path("chat_service/api"), Path("chat_service/repository")}
"""A view module and the repository module that it calls share a name, so that one finds the other."""


def _imported() -> set[str]:
    """Return the top-level names that this project imports, in its tests and benchmarks too."""
    names = set(sys.stdlib_module_names)
    for folder in ("chat_service", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    return names


def test_no_module_has_the_name_of_a_library() -> None:
    """So that a name in a stack trace or an import is unambiguous."""
    libraries = _imported()
    assert [str(path) for path in MODULES if path.stem in libraries] == []


def test_no_two_modules_have_the_same_name() -> None:
    """Except a view module and its repository module."""
    folders = defaultdict(set)
    for path in (*MODULES, *(file.relative_to(ROOT) for file in ROOT.glob("*.py"))):
        folders[path.stem].add(path.parent)
    assert {name for name, where in folders.items() if len(where) > 1 and where != MIRRORED} == set()


def test_the_repository_says_where_to_look() -> None:
    """Its docstring lists each of its modules once, and no other."""
    modules = sorted(module.name for module in iter_modules(repository.__path__))
    assert sorted(re.findall(r"`(\w+)`", repository.__doc__ or "")) == modules


def test_nobody_passes_a_session_by_hand() -> None:
    """A command without its session would run outside the transaction. A unit of work passes the session instead."""
    allowed = {Path("chat_service/repository") / name for name in ("transaction.py", "unit_of_work.py", "database.py")}
    offenders = [
        f"{path}:{node.lineno}"
        for path in MODULES
        if path not in allowed
        for node in ast.walk(ast.parse((ROOT / path).read_bytes()))
        if (isinstance(node, ast.arg) and node.arg == "session")
        or (isinstance(node, ast.keyword) and node.arg == "session")
    ]
    assert offenders == []


def test_no_web_worker_loads_what_only_webhooks_are_told_with() -> None:
    """Loading aiohttp would be a fifth of a worker's start time, and 9 MB. The commands load the same modules."""
    script = "import sys, asgi; sys.exit('aiohttp' in sys.modules)"
    environment = {**os.environ, "MONGODB_URI": "mongodb://localhost/chat?replicaSet=rs0"}
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=False).returncode == 0
