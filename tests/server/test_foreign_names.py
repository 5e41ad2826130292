"""The product uses only documented names of other projects: none with an underscore; those that it overrides exist."""

import ast
import inspect
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from chat_service.server import http_protocol, websocket_protocol, worker
from chat_service.server.http_protocol import Http
from chat_service.server.websocket_protocol import WebSocket
from chat_service.server.worker import Worker

ROOT = Path(__file__).parents[2]
PRODUCT = [*(ROOT / "chat_service").rglob("*.py"), *ROOT.glob("*.py")]

DOCUMENTED = {"_exit"}
"""Names that Python itself documents, in spite of the underscore."""

SUBCLASSES = [
    (Http, HttpToolsProtocol, http_protocol),
    (WebSocket, WebSocketsSansIOProtocol, websocket_protocol),
    (Worker, UvicornWorker, worker),
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined_here(tree: ast.Module) -> set[str]:
    """Return the names that a module defines itself: functions, classes, variables, attributes, slots."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_another_project(path: Path) -> None:
    """Each attribute with an underscore is defined in the module that uses it, and none is imported."""
    tree = ast.parse(path.read_bytes())
    own = defined_here(tree)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)}
    used |= {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "setattr", "hasattr"}
        if isinstance(node.args[1], ast.Constant) and is_private(node.args[1].value)
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if is_private(alias.name) or any(map(is_private, (node.module or "").split(".")))
    }
    assert used - own - DOCUMENTED == set()
    assert imported == set()


@pytest.mark.parametrize(("ours", "theirs", "module"), SUBCLASSES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_we_add_to_a_class_is_not_theirs(ours: type, theirs: type, module: object) -> None:
    """No private name of ours hides one of the base class, and each public method overrides one of it."""
    private = {name for name in defined_here(ast.parse(inspect.getsource(module))) if is_private(name)} - {"_"}
    source = inspect.getsource(theirs)
    assert {name for name in private if f"self.{name}" in source or hasattr(theirs, name)} == set()
    overridden = {name for name in vars(ours) if not is_private(name) and callable(getattr(ours, name, None))}
    known = {name for name in overridden if hasattr(theirs, name)} | {"slot"}
    assert overridden - known - {"__init__", "__doc__"} == set(), "not a hook of the base (any more)"


def test_the_attributes_that_are_used_are_there() -> None:
    """The pinned versions still set each public attribute that the product uses."""
    http = inspect.getsource(HttpToolsProtocol)
    for name in ("transport", "flow", "cycle", "headers", "url", "scope", "parser", "connections", "loop", "app_state"):
        assert f"self.{name}" in http, name
    sockets = inspect.getsource(WebSocketsSansIOProtocol)
    for name in (
        *("transport", "conn", "queue", "frames", "read_paused", "writable", "close_sent", "close_timer"),
        *("close_timeout", "handshake_initiated", "handshake_complete", "request", "response", "scope", "app_state"),
    ):
        assert f"self.{name}" in sockets, name
    assert "connection.shutdown()" in inspect.getsource(Server), "how a drain begins"
