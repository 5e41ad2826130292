"""`make run`: the database, the service, a worker and demo data on one machine; Ctrl-C stops all of it."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from chat_service.embedded.mongod import EmbeddedMongod
from chat_service.embedded.process import EmbeddedError, start, stop
from chat_service.embedded.service import EmbeddedGunicorn
from chat_service.errors import ChatExistsError, ChatIdRetiredError, ChatServiceError
from chat_service.models import EVERYDAY_SCOPES, NewMessage, Role
from chat_service.proof.notes import SigningKey
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.messages import Messages
from chat_service.repository.sealing import new_key
from chat_service.repository.tenants import Tenants

DATA = Path(".data")
PUBLISHED_KEY = "your-tenant-api-key"
"""The key in the samples of the published page. Everybody knows it, so only a local database gets it."""

STOP_SECONDS = 10
"""The time that the purge worker has to finish a batch."""

DEMO_TENANT = "00000000-0000-4000-8000-00000000de30"
DEMO_CHAT = "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"
"""The chat id in the samples of the published page."""

DEMO_MESSAGES = [
    NewMessage(Role.USER, "Where is my parcel?", "ada", {}),
    NewMessage(Role.ASSISTANT, "It left the depot this morning and arrives today before 18:00.", "bot", {}),
    NewMessage(Role.USER, "Thank you! 🎉", "ada", {}),
]


def main() -> None:
    """Run until Ctrl-C."""
    try:
        with ExitStack() as cleanup:
            _serve(cleanup)
    except (EmbeddedError, ChatServiceError) as error:
        sys.exit(f"make run: {error or type(error).__name__}")


def _serve(cleanup: ExitStack) -> None:
    port = _port()
    uri = os.environ.get("MONGODB_URI") or _start_mongod(cleanup)
    key = os.environ.get("DEMO_API_KEY", PUBLISHED_KEY)
    has_demo_chat = _prepare_demo(uri, key)
    _greet(port, key, uri, has_demo_chat=has_demo_chat)
    os.environ.update(_secrets(), LOG_FORMAT="console", WEBHOOK_PRIVATE_NETWORKS="on")
    gunicorn = EmbeddedGunicorn(uri, port, CHAT_PAGE="on")
    process = gunicorn.start()
    cleanup.callback(gunicorn.stop)
    worker = start("flask", "--app", "wsgi", "jobs", "run", MONGODB_URI=uri)
    cleanup.callback(stop, worker, STOP_SECONDS)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: process.terminate())
    process.wait()


def _secrets() -> dict[str, str]:
    """Return keys and ledger path, made if missing for our own database; for any other, only those that are set."""
    names = ("WEBHOOK_SECRET_KEY", "SIGNING_KEY", "LEDGER_FILE")
    if "MONGODB_URI" in os.environ:
        return {name: os.environ[name] for name in names if name in os.environ}
    DATA.mkdir(exist_ok=True)
    defaults = (
        _read_or_make("webhook.key", new_key),
        _read_or_make("signing.key", SigningKey.new),
        str((DATA / "ledger.db").resolve()),
    )
    return {name: os.environ.get(name, value) for name, value in zip(names, defaults, strict=True)}


def _read_or_make(name: str, make: Callable[[], str]) -> str:
    file = DATA / name
    if not file.exists():
        file.touch(0o600)
        file.write_text(make())
    return file.read_text()


def _port() -> int:
    """Return the port to serve on.

    Raises:
        EmbeddedError: PORT is no port number, or the port cannot be used.
    """
    port = os.environ.get("PORT", "8000")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise EmbeddedError(f"PORT is {port!r}, which is not a port number.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError as error:
            raise EmbeddedError(
                f"Port {port} cannot be used ({error.strerror}); stop what listens there, or choose another: "
                "PORT=8001 make run."
            ) from None
    return int(port)


def _start_mongod(cleanup: ExitStack) -> str:
    print("Starting MongoDB ...", flush=True)  # noqa: T201 - speaks to a person
    return cleanup.enter_context(EmbeddedMongod(DATA)).uri


def _prepare_demo(uri: str, key: str) -> bool:
    """Create what is missing: collections, demo tenant, its key, demo chat. Return whether the demo chat exists."""
    database = Database(uri)
    try:
        if key == PUBLISHED_KEY and not database.is_local:
            raise EmbeddedError("MONGODB_URI is not on this machine: set DEMO_API_KEY to a key that is not published.")
        database.prepare()
        chats = Chats(database)
        Tenants(database).create("Demo", DEMO_TENANT)
        ApiKeys(database).create(DEMO_TENANT, "demo", EVERYDAY_SCOPES, key)
        try:
            chats.create(DEMO_TENANT, "Where is my parcel?", {}, DEMO_CHAT)
        except ChatExistsError:
            return True
        except ChatIdRetiredError:
            return False
        Messages(database).append(DEMO_TENANT, DEMO_CHAT, DEMO_MESSAGES)
        return True
    finally:
        database.close()


def _greet(port: int, key: str, uri: str, *, has_demo_chat: bool) -> None:
    chat = DEMO_CHAT if has_demo_chat else "<chat id>"
    deleted = (
        ""
        if has_demo_chat
        else "\n  The demo chat was deleted, and a deleted id never comes back; `make clean-data` starts afresh."
    )
    print(  # noqa: T201 - speaks to a person
        f"""
  Try it         http://127.0.0.1:{port}/#key={quote(key, safe="")}

  Chat service   http://127.0.0.1:{port}/api/v1
  API key        {key}
  MongoDB        {uri}{deleted}

  Look:    curl -H 'X-API-Key: {key}' http://127.0.0.1:{port}/api/v1/chats/{chat}
  Delete:  curl -X DELETE -H 'X-API-Key: {key}' http://127.0.0.1:{port}/api/v1/chats/{chat}

  For `flask --app wsgi ...` in another terminal:  export MONGODB_URI='{uri}'
  Ctrl-C stops everything.
""",
        flush=True,
    )


if __name__ == "__main__":
    main()
