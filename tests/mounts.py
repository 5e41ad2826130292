"""The real service, with mounts that only it sees."""

import os
import subprocess
import sys
from typing import Any

from chat_service.embedded.process import die_with_parent
from chat_service.embedded.service import EmbeddedGunicorn

IN_OWN_NAMESPACE = ("unshare", "--mount", "--map-root-user", "sh", "-c")


class InOwnMounts(EmbeddedGunicorn):
    """The service in a mount namespace of its own, started after a command that mounts something there."""

    def __init__(self, mount: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mount = mount

    def start(self) -> "subprocess.Popen[bytes]":
        serve = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "asgi:application"]
        self.process = subprocess.Popen(
            [*IN_OWN_NAMESPACE, f'{self._mount} && exec "$0" "$@"', *serve],
            cwd=self._folder,
            env={**os.environ, **self._environment},
            stderr=self._output,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
        )
        return self.process
