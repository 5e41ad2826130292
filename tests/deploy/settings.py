"""What the service can be told, for tests of files that tell it something."""

import re
from pathlib import Path

SHUTDOWN_SECONDS = 25
"""gunicorn.conf.py's default."""

_OF_GUNICORN = {"FORWARDED_ALLOW_IPS"}

_NAME = re.compile(r'"([A-Z][A-Z_]+)"|\[\'([A-Z_]+)\'\]')


def known(project: Path) -> set[str]:
    """Return the names of variables that the service, or what it is served with, reads."""
    text = "".join((project / file).read_text() for file in ("config.py", "gunicorn.conf.py"))
    return {first or second for first, second in _NAME.findall(text)} | _OF_GUNICORN
