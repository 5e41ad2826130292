"""Whether the database is away, as the driver's own heartbeats tell it: nobody has to run into it to find out."""

import time
from collections.abc import Callable

from pymongo import monitoring
from pymongo.topology_description import TopologyDescription


class Outage(monitoring.TopologyListener):
    """Listens to what the driver knows of the servers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def seconds(self) -> float:
        """Return for how long it has been known that there is no primary; 0 while there is one, or nobody knows."""
        since = self._since
        return 0.0 if since is None else max(self._clock() - since, 1e-9)

    def opened(self, event: monitoring.TopologyOpenedEvent) -> None:
        """Nothing is known yet."""

    def description_changed(self, event: monitoring.TopologyDescriptionChangedEvent) -> None:
        """Take in what the driver has just learnt."""
        if event.new_description.has_writable_server():
            self._since = None
        elif self._since is None and _tells(event.new_description):
            self._since = self._clock()

    def closed(self, event: monitoring.TopologyClosedEvent) -> None:
        """The client was closed: what was known last is kept."""


def _tells(description: TopologyDescription) -> bool:
    """Tell whether a server has answered or failed; before that, that no primary is known says nothing."""
    return any(
        server.is_server_type_known or server.error is not None for server in description.server_descriptions().values()
    )
