"""Exports of a whole tenant, in one zip file: a customer's data, to take along."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from chat_service.api.context import repositories
from chat_service.api.exports import ndjson
from chat_service.errors import ChatNotFoundError, ExportEndedError
from chat_service.models import Caller, Tenant, milliseconds
from chat_service.proof.leaves import fields_of

LOG_PAGE = 1_000


class MemberCount(NamedTuple):
    """How many chats, chats of the trash, and entries of the log a file has."""

    chats: int
    trashed: int
    entries: int


def write_tenant(tenant: Tenant, file: Path, done: Callable[[], object]) -> MemberCount:
    """Write all chats of the tenant and its log; call `done` after each chat. The file appears when it is complete.

    Each chat is as it was at one moment, but not all at the same. A chat that is deleted meanwhile is not in the file.

    Raises:
        DatabaseUnavailableError, ExportCutError, OSError: there is no file.
    """
    part = file.with_name(file.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            about = {"tenant_id": tenant.id, "name": tenant.name, "created_at": milliseconds(tenant.created_at)}
            archive.writestr("tenant.json", json.dumps(about, ensure_ascii=False))
            chats = _write_chats(archive, tenant.id, done, of_trash=False)
            trashed = _write_chats(archive, tenant.id, done, of_trash=True)
            entries = _write_log(archive, tenant.id)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return MemberCount(chats, trashed, entries)


def _write_chats(archive: zipfile.ZipFile, tenant_id: str, done: Callable[[], object], *, of_trash: bool) -> int:
    operator = Caller(tenant_id, "operator", frozenset())
    count = 0
    for chat_id in repositories().exports.ids(tenant_id, of_trash=of_trash):
        # To a file of its own first: a chat that is deleted meanwhile would leave a part of itself in the archive.
        with suppress(ChatNotFoundError, ExportEndedError), TemporaryFile() as whole:
            with repositories().exports.open(operator, chat_id, of_trash=of_trash) as (chat, batches):
                whole.writelines(ndjson(chat, batches))
            whole.seek(0)
            name = f"{'trash' if of_trash else 'chats'}/{chat_id}.ndjson"
            with archive.open(name, "w", force_zip64=True) as member:
                shutil.copyfileobj(whole, member)
            count += 1
        done()
    return count


def _write_log(archive: zipfile.ZipFile, tenant_id: str) -> int:
    count = 0
    with archive.open("log.ndjson", "w", force_zip64=True) as member:
        for line in _log_lines(tenant_id):
            member.write(line)
            count += 1
    return count


def _log_lines(tenant_id: str) -> Iterator[bytes]:
    after = 0
    while True:
        page = repositories().log.page(tenant_id, after, LOG_PAGE, None)
        yield from (json.dumps(fields_of(entry), ensure_ascii=False).encode() + b"\n" for entry in page.entries)
        if page.next_after >= page.head:
            return
        after = page.next_after
