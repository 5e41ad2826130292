"""A process that deletes one chat after the other, and tells what became of each.

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

LONGER_SECONDS = 60.0
"""It goes on for so long, if need be, until it is refused: a slow machine takes its time."""


def main() -> None:
    database = Database(sys.argv[1])
    chats, deletions = Chats(database), Deletions(database)
    until = time.monotonic() + float(sys.argv[2])
    said = ""
    while time.monotonic() < until or (said != "refused" and time.monotonic() < until + LONGER_SECONDS):
        try:
            chat_id = chats.create(TENANT, None, {}, str(uuid.uuid4())).id
            deletions.delete(TENANT, chat_id, sys.argv[3])
            said = "deleted"
        except LegalHoldError:
            said = "refused"
            time.sleep(0.05)
        except (DatabaseUnavailableError, OutcomeUnknownError):  # as of one that was stopped in the middle
            said = "failed"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
