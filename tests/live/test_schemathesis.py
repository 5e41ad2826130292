"""schemathesis over every operation of the specification, all checks on, against the running service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chat_service.models import NewMessage, Role
from chat_service.repository.chats import Chats
from chat_service.repository.checks import Checks
from chat_service.repository.messages import Messages

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "4")
"""How many requests it makes up for each operation; `SCHEMATHESIS_EXAMPLES=100 make test` asks for more."""


@pytest.mark.timeout(600)
def test_it_finds_nothing(live, database, project: Path) -> None:
    service, new_tenant = live
    access = new_tenant()
    chat_ids = [Chats(database).create(access.tenant_id, None, {}).id for _ in range(30)]
    for chat_id in chat_ids:
        Messages(database).append(access.tenant_id, chat_id, [NewMessage(Role.USER, "hello", None, {})] * 3)
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"http://127.0.0.1:{service.port}/openapi.json"]
    # A hook runs `use_after_free` instead, with one exception: see nothing_comes_back.
    options = [f"--header=X-API-Key: {access.key}", f"--max-examples={EXAMPLES}", "--exclude-checks=use_after_free"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.live.schemathesis_hooks",
        "SCHEMATHESIS_TENANT_ID": access.tenant_id,
        "SCHEMATHESIS_CHAT_IDS": ",".join(chat_ids),
        "PYTHONPATH": str(project),
    }
    completed = subprocess.run(
        [*command, *options], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert list(Checks(database).run()) == []
