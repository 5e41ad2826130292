"""When the set counts as well: a fault too early would hit one that is still recovering from the last."""

import time

from chat_service.embedded import replica_set
from chat_service.embedded.replica_set import PRIMARY, SECONDARY, EmbeddedReplicaSet

ANSWER_SECONDS, STEADY_SECONDS = 0.6, 0.5


class Starting(EmbeddedReplicaSet):
    """A member that has just started keeps the first question for a while."""

    answered_at: float | None = None

    def states(self) -> list[int | None]:
        if self.answered_at is None:
            time.sleep(ANSWER_SECONDS)
            self.answered_at = time.monotonic()
        return [PRIMARY, SECONDARY, SECONDARY]


def test_it_is_well_from_its_answer_on_and_not_from_the_question(tmp_path, monkeypatch) -> None:
    """A pause while a member had no source yet held everybody up for 8 s."""
    monkeypatch.setattr(replica_set, "STEADY_SECONDS", STEADY_SECONDS)
    starting = Starting(tmp_path)
    starting.wait_until_steady()
    assert starting.answered_at is not None
    assert time.monotonic() - starting.answered_at >= STEADY_SECONDS
