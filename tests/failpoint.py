"""mongod's `failCommand`: commands of the service, and of nobody else, fail, wait, or lose their connection."""

from collections.abc import Callable
from typing import Any

import pymongo

from chat_service.repository.database import APP_NAME

BEGUN_MS = 10_000
"""Within this a command that is waited for has come."""


class FailPoint:
    """The one failpoint of a server; it is armed anew or disarmed, never twice at once."""

    def __init__(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        self._client = client

    def arm(self, *commands: str, times: int | None = None, **how: object) -> Callable[[], object]:
        """Have the next `times` of the commands, or all, end as `how` says; return what waits until one has begun."""
        data = {"failCommands": commands, "appName": APP_NAME, **how}
        entered = self._set({"times": times} if times else "alwaysOn", data=data)["count"]
        wait = {"waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": BEGUN_MS}
        return lambda: self._client.admin.command(wait)

    def block(self, *commands: str, seconds: float, times: int | None = None) -> Callable[[], object]:
        """Have them take so much longer."""
        return self.arm(*commands, times=times, blockConnection=True, blockTimeMS=int(seconds * 1000))

    def disarm(self) -> None:
        """Let everything pass again."""
        self._set("off")

    def _set(self, mode: object, **more: object) -> dict[str, Any]:
        return self._client.admin.command({"configureFailPoint": "failCommand", "mode": mode, **more})
