"""The specification, and the page that shows it: Swagger UI from its own wheel, so that it works offline."""

import json
from pathlib import Path
from typing import Any

import flask_swagger_ui  # type: ignore[import-untyped]  # only its folder is of interest
from flask import Blueprint, Response, current_app, send_from_directory

from chat_service.api.headers import SECURITY

blueprint = Blueprint("docs", __name__)

_EXTENSION = "chat_service.openapi"
_OURS = Path(__file__).parent / "static" / "docs"
_THEIRS = Path(flask_swagger_ui.__file__).parent / "dist"

FILES = {
    "docs.js": _OURS,
    "guide.css": _OURS,
    "swagger-ui.css": _THEIRS,
    "swagger-ui-bundle.js": _THEIRS,
    "favicon-32x32.png": _THEIRS,
}
"""What the pages consist of, and where each file lies. Nothing else of those folders is served."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No script or style but the files above, and no request to any other host."""


def publish(document: dict[str, Any]) -> None:
    """Serve this specification."""
    current_app.extensions[_EXTENSION] = json.dumps(document, ensure_ascii=False).encode()


@blueprint.get("/openapi.json")
def specification() -> Response:
    """Give the specification of the API, in OpenAPI 3.1."""
    return Response(current_app.extensions[_EXTENSION], mimetype="application/json")


@blueprint.get("/docs")
def page() -> Response:
    """Show the specification to people."""
    return give_file(_OURS, "docs.html")


def give_file(folder: Path, name: str, policy: str = POLICY) -> Response:
    """Return a file of a page, which the browser may use as the policy allows."""
    answer = send_from_directory(folder, name)
    answer.headers.update({**SECURITY, "Content-Security-Policy": policy, "Cache-Control": "no-cache"})
    return answer
