"""When a replica set counts as steady: an earlier fault would hit a set that still recovers from the last one."""

import time

from chat_service.embedded import replica_set
from chat_service.embedded.replica_set import PRIMARY, SECONDARY, EmbeddedReplicaSet

ANSWER_SECONDS, STEADY_SECONDS = 0.6, 0.5


class Starting(EmbeddedReplicaSet):
    """A set with a member that has just started: it delays the answer to the first query."""

    answered_at: float | None = None

    def states(self) -> list[int | None]:
        if self.answered_at is None:
            time.sleep(ANSWER_SECONDS)
            self.answered_at = time.monotonic()
        return [PRIMARY, SECONDARY, SECONDARY]


def test_it_is_well_from_its_answer_on_and_not_from_the_question(tmp_path, monkeypatch) -> None:
    """Otherwise a fault comes too early: a pause while a member had no sync source yet delayed all requests by 8 s."""
    monkeypatch.setattr(replica_set, "STEADY_SECONDS", STEADY_SECONDS)
    starting = Starting(tmp_path)
    starting.wait_until_steady()
    assert starting.answered_at is not None
    assert time.monotonic() - starting.answered_at >= STEADY_SECONDS
