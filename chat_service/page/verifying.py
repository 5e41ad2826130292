"""The page at `/verify`: whether a file proves a deletion, found out in the browser, which asks nobody.

One file, so that it can be saved and used without the service; its script and style are allowed by their digests.
"""

import base64
import re
from hashlib import sha256
from pathlib import Path

from flask import Blueprint, Response

from chat_service.page.docs import give_file

blueprint = Blueprint("verify", __name__)

_FOLDER = Path(__file__).parent / "static" / "verify"
_NAME = "verify.html"


def _digest(tag: str) -> str:
    """Return the source expression (CSP 3) that allows what is in the one element of this name."""
    [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", (_FOLDER / _NAME).read_text(), re.DOTALL)
    return f"'sha256-{base64.b64encode(sha256(inside.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@blueprint.get("/verify")
def page() -> Response:
    """Give the page."""
    return give_file(_FOLDER, _NAME, POLICY)
