"""Proofs of what the log says: signed checkpoints, and what follows from them. The log's public key verifies them."""

from collections.abc import Sequence
from typing import Any

from flask import Response
from flask_smorest import Blueprint
from marshmallow import Schema, fields, validate

from chat_service.api.auth import requires
from chat_service.api.context import caller, repositories
from chat_service.api.fields import Number
from chat_service.api.message_schemas import MOST_SEQ
from chat_service.api.openapi import raises
from chat_service.api.parsing import require_acceptable
from chat_service.errors import DeletionNotFoundError, NotSignedError, ProofNotReadyError, UnknownSizeError
from chat_service.models import Kind, Scope
from chat_service.proof.notes import Proof, SigningKey, consistency_text, origin_of, proof_text
from chat_service.repository.proofs import Inclusion

TEXT = "text/plain"

_AS_TEXT = {TEXT: {"schema": {"type": "string"}}}

blueprint = Blueprint("proofs", __name__, url_prefix="/api/v1", description="Proofs of what the log says")


class ProofIn(Schema):
    """What to prove."""

    kind = fields.String(
        load_default=Kind.CHAT_DELETED.value,
        validate=validate.OneOf([Kind.CHAT_DELETED.value, Kind.CHAT_PURGED.value]),
        metadata={
            "description": "`chat.deleted`: nothing can be read; `chat.purged`: nothing is left in the collection."
        },
    )


class GrowthIn(Schema):
    """The checkpoint since which to prove growth."""

    old = Number(
        required=True,
        validate=validate.Range(0, MOST_SEQ),
        metadata={"description": "The number of entries in the older checkpoint."},
    )


class LogKeyOut(Schema):
    """The keys that verify the log's checkpoints."""

    origin = fields.String(metadata={"description": "The name of your tenant's log."})
    key = fields.String(metadata={"description": "The key that signs now, to give to `chat-service verify --key`."})
    keys = fields.List(fields.String(), metadata={"description": "That key, and earlier keys, which still verify."})


@blueprint.get("/log/key")
@requires(Scope.READ)
@raises(NotSignedError)
@blueprint.response(200, LogKeyOut())
def get_log_key() -> dict[str, Any]:
    """Get the public key of your tenant's log. Keep it where nobody who can change the service can change it.

    The key has the form of C2SP signed-note.
    """
    origin = origin_of(caller().tenant_id)
    keys = [str(key.verifier(origin)) for key in _signing_keys()]
    return {"origin": origin, "key": keys[0], "keys": keys}


@blueprint.get("/log/checkpoint")
@requires(Scope.READ)
@raises(NotSignedError)
@blueprint.doc(responses={"200": {"description": "A signed checkpoint.", "content": _AS_TEXT}})
def get_checkpoint() -> Response:
    """Get a signed checkpoint: how many entries your log has, and the hash of all of them (C2SP tlog-checkpoint).

    If you keep one, no earlier entry can be removed or changed without your noticing: see `/log/consistency`.
    """
    require_acceptable(TEXT)
    key = _signing_keys()[0]
    return _text(key.sign(repositories().proofs.checkpoint(caller().tenant_id)))


@blueprint.get("/log/consistency")
@requires(Scope.READ)
@raises(NotSignedError, UnknownSizeError)
@blueprint.arguments(GrowthIn(), location="query")
@blueprint.doc(responses={"200": {"description": "A proof of consistency.", "content": _AS_TEXT}})
def prove_growth(query: dict[str, Any]) -> Response:
    """Prove that your log has only grown since an older checkpoint, with a new one (RFC 6962, section 2.1.2).

    The response is a line `old` with the old size, the hashes, an empty line, and the new checkpoint, as in C2SP
    tlog-witness.
    """
    require_acceptable(TEXT)
    key = _signing_keys()[0]
    path, checkpoint = repositories().proofs.consistency(caller().tenant_id, query["old"])
    return _text(consistency_text(query["old"], path, key.sign(checkpoint)))


@blueprint.get("/deletions/<chat_id>/proof")
@requires(Scope.READ, allow_deleted=True)
@raises(DeletionNotFoundError, NotSignedError, ProofNotReadyError)
@blueprint.arguments(ProofIn(), location="query")
@blueprint.doc(responses={"200": {"description": "A proof (C2SP tlog-proof).", "content": _AS_TEXT}})
def prove_deletion(query: dict[str, Any], chat_id: str) -> Response:
    """Prove a deletion: the entry, the proof that it is in the log, and the signature. It is verified offline.

    Keep the file: `chat-service verify FILE --key KEY` and the page `/verify` show what it proves, even if the database
    is lost. The proof is ready within a second of the deletion; that of a large chat's purge, when that is complete.
    """
    require_acceptable(TEXT)
    who, kind = caller(), Kind(query["kind"])
    try:
        inclusion = repositories().proofs.inclusion(who.tenant_id, chat_id, kind)
    except ProofNotReadyError:
        had_grace = who.grace is not None
        if repositories().receipts.deleted_at(who.tenant_id, chat_id, had_grace=had_grace) is None:
            raise DeletionNotFoundError from None
        raise
    response = _text(signed(inclusion))
    response.headers["Content-Disposition"] = f'attachment; filename="{kind.value}-{chat_id}.tlog-proof"'
    return response


def signed(inclusion: Inclusion) -> str:
    """Return the proof that an entry is in the log, with a signed checkpoint.

    Raises:
        NotSignedError: the service has no signing key.
    """
    return proof_text(
        Proof(inclusion.leaf, inclusion.index, inclusion.path, _signing_keys()[0].sign(inclusion.checkpoint))
    )


def _signing_keys() -> Sequence[SigningKey]:
    """Return the signing keys; the first one signs, those after it only verify.

    Raises:
        NotSignedError: the service has none.
    """
    keys = repositories().signing_keys
    if not keys:
        raise NotSignedError
    return keys


def _text(text: str) -> Response:
    return Response(text, mimetype=TEXT)
