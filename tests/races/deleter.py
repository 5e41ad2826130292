"""A process that creates and deletes one chat after the other, and prints the outcome of each.

python -m tests.races.deleter 'mongodb://…' 'seconds' 'name'
"""

import sys
import time
import uuid

from chat_service.errors import DatabaseUnavailableError, LegalHoldError, OutcomeUnknownError
from chat_service.repository.chats import Chats
from chat_service.repository.database import Database
from chat_service.repository.deletions import Deletions
from tests.races.contenders import TENANT

EXTRA_SECONDS = 60.0
"""How much longer it goes on, if need be, until a delete is refused: a machine may be slow."""


def main() -> None:
    database = Database(sys.argv[1])
    chats, deletions = Chats(database), Deletions(database)
    until = time.monotonic() + float(sys.argv[2])
    outcome = ""
    while time.monotonic() < until or (outcome != "refused" and time.monotonic() < until + EXTRA_SECONDS):
        try:
            chat_id = chats.create(TENANT, None, {}, str(uuid.uuid4())).id
            deletions.delete(TENANT, chat_id, sys.argv[3])
            outcome = "deleted"
        except LegalHoldError:
            outcome = "refused"
            time.sleep(0.05)
        except (DatabaseUnavailableError, OutcomeUnknownError):  # as after a stop in the middle of a command
            outcome = "failed"
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
