"""The chat page at `/`, for trying the service: it is served where CHAT_PAGE says so, as `make run` does.

It needs no key to be read, because it holds nothing: whoever opens it brings one, and it talks to the API like any
other client. Plain files of this package, and nothing of any other host.
"""

from pathlib import Path

from flask import Blueprint, Response

from chat_service.page import docs

blueprint = Blueprint("page", __name__)

FOLDER = Path(__file__).parent / "static" / "chat"

FILES = {found.name for found in FOLDER.iterdir()} - {"index.html"}
"""What the page consists of, beside itself."""

POLICY = f"{docs.POLICY}; require-trusted-types-for 'script'; trusted-types 'none'"
"""That of /docs, and the browser refuses to read any text as HTML: what people write to each other stays text."""


@blueprint.get("/")
def index() -> Response:
    """Give the chat page."""
    return docs.give_file(FOLDER, "index.html", POLICY)


@blueprint.get("/page/<name>")
def part(name: str) -> Response:
    """Give a file of the page."""
    return docs.give_file(FOLDER if name in FILES else FOLDER / "none", name, POLICY)
