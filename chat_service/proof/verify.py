"""Verification of proofs, with nothing but the file and the log's key."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from chat_service.proof.merkle import is_consistent, is_included, leaf_hash
from chat_service.proof.notes import (
    Checkpoint,
    MalformedError,
    VerifierKey,
    open_checkpoint,
    origin_of,
    parse_consistency,
    parse_proof,
)

MOST_BYTES = 2**20
"""The largest file that is read. The largest entry, a hold of 1,000 chats, has 40,000 bytes."""


class NotProvedError(Exception):
    """The file does not prove it; the message says why, for a person."""


class Proved(NamedTuple):
    """What a valid proof proves."""

    entry: dict[str, Any]
    checkpoint: Checkpoint
    key: VerifierKey


def verify(data: bytes, keys: Sequence[VerifierKey], chat_id: str | None = None) -> Proved:
    """Return what the proof proves; with `chat_id` it must be about that chat.

    Raises:
        NotProvedError: it proves nothing.
    """
    try:
        proof = parse_proof(_text(data))
        checkpoint, key = open_checkpoint(proof.note, keys)
    except MalformedError as error:
        raise NotProvedError(str(error)) from None
    if proof.index >= checkpoint.size:
        raise NotProvedError("The checkpoint is older than the entry: the log did not have it yet.")
    if not is_included(leaf_hash(proof.leaf), proof.index, checkpoint.size, proof.path, checkpoint.root):
        raise NotProvedError("The entry is not in the log that was signed: the entry or the path was changed.")
    entry = json.loads(proof.leaf)
    if origin_of(entry["tenant_id"]) != checkpoint.origin or entry["seq"] != proof.index + 1:
        raise NotProvedError("The entry says that it is in another log, or at another place in the log.")
    if chat_id is not None and entry.get("chat_id") != chat_id:
        raise NotProvedError(f"The proof is about another chat: {entry.get('chat_id', 'none')}.")
    return Proved(entry, checkpoint, key)


def verify_growth(data: bytes, old_note: bytes, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, Checkpoint]:
    """Return an old checkpoint and a new one, for which `data` proves that the log has only grown in between.

    Raises:
        NotProvedError: it does not.
    """
    try:
        size, path, note = parse_consistency(_text(data))
        new, _ = open_checkpoint(note, keys)
        old, _ = open_checkpoint(_text(old_note), keys)
    except MalformedError as error:
        raise NotProvedError(str(error)) from None
    if (old.origin, old.size) != (new.origin, size):
        raise NotProvedError("The proof is not about this old checkpoint.")
    if not is_consistent(old.size, old.root, new.size, new.root, path):
        raise NotProvedError("The log was rewritten: the new checkpoint does not continue the old one.")
    return old, new


def sentence(proved: Proved) -> str:
    """Return what was proved as a sentence for a person."""
    entry, checkpoint = proved.entry, proved.checkpoint
    place = f"entry {entry['seq']:,} of {checkpoint.size:,} in the log of tenant {entry['tenant_id']}"
    if entry["kind"] == "chat.deleted":
        what = f"Chat {entry['chat_id']} was deleted with its {_messages(entry)}"
        covers = "From then on nothing of it could be read through the service."
    elif entry["kind"] == "chat.purged":
        what = f"The last of the {_messages(entry)} of chat {entry['chat_id']} was removed"
        covers = "From then on nothing of it was left in the service's database."
    elif entry["kind"] == "tenant.deleted":
        chats = entry["chat_count"]
        what = f"The tenant was deleted with {chats:,} chat{'' if chats == 1 else 's'} and their {_messages(entry)}"
        covers = "From then on nothing of any of its chats was left in the service's database."
    else:
        what = f"{entry['kind']} was logged for {entry.get('chat_id') or entry.get('hold_id') or 'the tenant'}"
        covers = ""
    text = f"{what} at {entry['at']}, by {entry['actor']}: {place}, signed by key {proved.key.id.hex()}."
    return f"{text} {covers}".strip()


def _messages(entry: dict[str, Any]) -> str:
    count = entry["message_count"]
    return f"{count:,} message{'' if count == 1 else 's'}"


def _text(data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise MalformedError("The file is too large for a proof.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedError("The file is not text.") from None
