"""The specification, and the page that shows it: Swagger UI from its own wheel, so that it works offline."""

import json
from pathlib import Path
from typing import Any

import flask_swagger_ui  # type: ignore[import-untyped]  # only its folder is used
from flask import Blueprint, Response, current_app, send_from_directory

from chat_service.api.headers import SECURITY

blueprint = Blueprint("docs", __name__)

_EXTENSION = "chat_service.openapi"
_OWN_FOLDER = Path(__file__).parent / "static" / "docs"
_SWAGGER_FOLDER = Path(flask_swagger_ui.__file__).parent / "dist"

FILES = {
    "docs.js": _OWN_FOLDER,
    "guide.css": _OWN_FOLDER,
    "swagger-ui.css": _SWAGGER_FOLDER,
    "swagger-ui-bundle.js": _SWAGGER_FOLDER,
    "favicon-32x32.png": _SWAGGER_FOLDER,
}
"""The files that the pages load, and the folder of each. Nothing else in those folders is served."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No script or style but the files above, and no request to any other host."""


def publish(document: dict[str, Any]) -> None:
    """Make this document the one that `/openapi.json` serves."""
    current_app.extensions[_EXTENSION] = json.dumps(document, ensure_ascii=False).encode()


@blueprint.get("/openapi.json")
def specification() -> Response:
    """Return the specification of the API, in OpenAPI 3.1."""
    return Response(current_app.extensions[_EXTENSION], mimetype="application/json")


@blueprint.get("/docs")
def page() -> Response:
    """Show the specification to people."""
    return give_file(_OWN_FOLDER, "docs.html")


def give_file(folder: Path, name: str, policy: str = POLICY) -> Response:
    """Return a file of a page, with the Content-Security-Policy `policy`."""
    response = send_from_directory(folder, name)
    response.headers.update({**SECURITY, "Content-Security-Policy": policy, "Cache-Control": "no-cache"})
    return response
