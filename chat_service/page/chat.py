"""The chat page at `/`, for trying the service. It is served only with `CHAT_PAGE=on`, which `make run` sets.

The page is public, because it contains no data: the user enters an API key, and the page calls the API like any other
client. It consists of plain files of this package, and loads nothing from any other host.
"""

from pathlib import Path

from flask import Blueprint, Response

from chat_service.page import docs

blueprint = Blueprint("page", __name__)

FOLDER = Path(__file__).parent / "static" / "chat"

FILES = {file.name for file in FOLDER.iterdir()} - {"index.html"}
"""The files that the page loads."""

POLICY = f"{docs.POLICY}; require-trusted-types-for 'script'; trusted-types 'none'"
"""The policy of /docs; in addition the browser refuses to parse text as HTML, so that messages stay text."""


@blueprint.get("/")
def index() -> Response:
    """Return the chat page."""
    return docs.give_file(FOLDER, "index.html", POLICY)


@blueprint.get("/page/<name>")
def part(name: str) -> Response:
    """Return a file that the page loads; any other name is not found."""
    return docs.give_file(FOLDER if name in FILES else FOLDER / "none", name, POLICY)
