"""The page at `/verify`: verifies a proof of a deletion in the browser, without any request.

It is one file, so that it can be saved and used without the service. Its script and style are allowed by their digests.
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
    """Return the CSP 3 source expression that allows the content of the only element with this tag."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", (_FOLDER / _NAME).read_text(), re.DOTALL)
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@blueprint.get("/verify")
def page() -> Response:
    """Return the page."""
    return give_file(_FOLDER, _NAME, POLICY)
