"""mongod's `failCommand`: commands of the service, and of no other client, fail, wait, or lose their connection."""

from collections.abc import Callable
from typing import Any

import pymongo

from chat_service.repository.database import APP_NAME

BEGUN_MS = 10_000
"""How long to wait for a command to reach the failpoint."""


class FailPoint:
    """The one failpoint of a server; to arm it again replaces what it was armed with."""

    def __init__(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        self._client = client

    def arm(self, *commands: str, times: int | None = None, **how: object) -> Callable[[], object]:
        """Let the next `times` commands, or all, fail as `how` says; return a function that waits for the first."""
        data = {"failCommands": commands, "appName": APP_NAME, **how}
        entered = self._set({"times": times} if times else "alwaysOn", data=data)["count"]
        wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": BEGUN_MS}
        return lambda: self._client.admin.command(wait)

    def block(self, *commands: str, seconds: float, times: int | None = None) -> Callable[[], object]:
        """Delay the commands by so many seconds; return a function that waits for the first."""
        return self.arm(*commands, times=times, blockConnection=True, blockTimeMS=int(seconds * 1000))

    def disarm(self) -> None:
        """Let all commands pass again."""
        self._set("off")

    def _set(self, mode: object, **more: object) -> dict[str, Any]:
        return self._client.admin.command({"configureFailPoint": "failCommand", "mode": mode, **more})
