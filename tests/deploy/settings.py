"""The settings that the service reads, for tests of files that set them."""

import re
from pathlib import Path

SHUTDOWN_SECONDS = 25
"""gunicorn.conf.py's default."""

_READ_BY_GUNICORN = {"FORWARDED_ALLOW_IPS"}

_NAME = re.compile(r'"([A-Z][A-Z_]+)"|\[\'([A-Z_]+)\'\]')


def known_settings(project: Path) -> set[str]:
    """Return the names of the environment variables that the service or gunicorn reads."""
    text = "".join((project / file).read_text() for file in ("config.py", "gunicorn.conf.py"))
    return {first or second for first, second in _NAME.findall(text)} | _READ_BY_GUNICORN
