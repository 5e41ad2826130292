"""Checkpoints and proofs as text: C2SP signed-note, tlog-checkpoint and tlog-proof, with Ed25519.

Parsing is strict: each value has exactly one spelling, so that any change to a proof is refused.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from chat_service.proof.merkle import HASH_BYTES

PROOF_HEADER = "c2sp.org/tlog-proof@v1"

ED25519 = b"\x01"
"""The byte that marks an Ed25519 key, in its id and in its text."""

KEY_ID_BYTES = 4
SIGNATURE_BYTES = 64

MOST_SIGNATURES = 16
"""The most signatures that a note may have; those of unknown keys are ignored."""

_NUMBER = re.compile("0|[1-9][0-9]{0,17}", re.ASCII)
_NAME = re.compile(r"[^\s+]+")
_SIGNATURE = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")


class MalformedError(Exception):
    """The text does not have the required form; the message says where."""


class Checkpoint(NamedTuple):
    """The state of a log: its name, how many entries it has, and the root hash of their tree."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """The parts of a tlog-proof."""

    leaf: bytes
    index: int
    path: list[bytes]
    note: str
    """The signed checkpoint."""


class VerifierKey(NamedTuple):
    """The public half of a key, with the name of the log that it signs for."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The id by which a signature names the key."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        """Return the key as the text that `--key` accepts."""
        return f"{self.name}+{self.id.hex()}+{_to_base64(ED25519 + self.public)}"

    @classmethod
    def of(cls, text: str) -> "VerifierKey":
        """Return the key that the text encodes.

        Raises:
            MalformedError: it is no key.
        """
        parts = text.strip().split("+", 2)
        if len(parts) != len(("name", "id", "key")) or not _NAME.fullmatch(parts[0]):
            raise MalformedError("The key is not of the form name+id+key.")
        kind_and_key = _from_base64(parts[2], "key")
        if kind_and_key[:1] != ED25519 or len(kind_and_key) != 1 + HASH_BYTES:
            raise MalformedError("The key is not an Ed25519 key.")
        key = cls(parts[0], kind_and_key[1:])
        if key.id.hex() != parts[1]:
            raise MalformedError("The key does not fit its name: a character is missing or wrong.")
        return key

    def has_signed(self, text: str, signature: bytes) -> bool:
        """Tell whether this key made the signature of the text."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key. The log of each tenant has its own name, and with it its own verifier key."""

    def __init__(self, text: str) -> None:
        """Read the key from the text that `flask keys signing` prints: 32 bytes in base64.

        Raises:
            MalformedError: it is no key.
        """
        seed = _from_base64(text, "signing key")
        if len(seed) != HASH_BYTES:
            raise MalformedError("The signing key does not have 32 bytes.")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)

    @staticmethod
    def new() -> str:
        """Return a new key as text."""
        return _to_base64(Ed25519PrivateKey.generate().private_bytes_raw())

    def verifier(self, name: str) -> VerifierKey:
        """Return the public half of the key, for the log of this name."""
        return VerifierKey(name, self._private.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> str:
        """Return the checkpoint as a note signed by this key."""
        text = f"{checkpoint.origin}\n{checkpoint.size}\n{_to_base64(checkpoint.root)}\n"
        signature = self.verifier(checkpoint.origin).id + self._private.sign(text.encode())
        return f"{text}\n\u2014 {checkpoint.origin} {_to_base64(signature)}\n"


def origin_of(tenant_id: str) -> str:
    """Return the name of a tenant's log; the tenant's id makes it unique."""
    return f"chat-service/{tenant_id}"


def open_checkpoint(note: str, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, VerifierKey]:
    """Return the checkpoint in a note, and the key that has signed it.

    Raises:
        MalformedError: it is no checkpoint, or none of the keys has signed it.
    """
    text, separator, signatures = note.partition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise MalformedError("The checkpoint has no signature.")
    checkpoint = _parse_checkpoint(text)
    lines = signatures[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise MalformedError("The checkpoint has too many signatures.")
    for line in lines:
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            raise MalformedError("A signature line of the checkpoint is malformed.")
        signature = _from_base64(match[2], "signature")
        for key in keys:
            names_key = (match[1], signature[:KEY_ID_BYTES]) == (key.name, key.id) and key.name == checkpoint.origin
            if names_key and len(signature) == KEY_ID_BYTES + SIGNATURE_BYTES:
                if key.has_signed(text + "\n", signature[KEY_ID_BYTES:]):
                    return checkpoint, key
                raise MalformedError("The signature of the checkpoint is wrong: it was changed.")
    raise MalformedError("None of the keys has signed the checkpoint: it is another log's, or another service's.")


def _parse_checkpoint(text: str) -> Checkpoint:
    match text.split("\n"):
        case [origin, size, root] if origin:
            return Checkpoint(origin, _number(size, "size"), _hash(root))
    raise MalformedError("The checkpoint does not have exactly three lines.")


def proof_text(proof: Proof) -> str:
    """Return the proof as a tlog-proof, with the entry as its extra data."""
    path = "".join(f"{_to_base64(sibling)}\n" for sibling in proof.path)
    return f"{PROOF_HEADER}\nextra {_to_base64(proof.leaf)}\nindex {proof.index}\n{path}\n{proof.note}"


def parse_proof(text: str) -> Proof:
    """Parse a tlog-proof, without checking whether it proves anything.

    Raises:
        MalformedError: it is none.
    """
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines[0] != PROOF_HEADER:
        raise MalformedError(f"This is not a proof: its first line is not {PROOF_HEADER}.")
    if len(lines) < len(("header", "extra", "index")) or not lines[1].startswith("extra "):
        raise MalformedError("The proof has no entry.")
    if not lines[2].startswith("index "):
        raise MalformedError("The proof has no index.")
    index = _number(lines[2].removeprefix("index "), "index")
    leaf = _from_base64(lines[1].removeprefix("extra "), "entry")
    return Proof(leaf, index, [_hash(line) for line in lines[3:]], note)


def consistency_text(old: int, path: Sequence[bytes], note: str) -> str:
    """Return a proof that a checkpoint continues one of size `old`, in the form that C2SP tlog-witness defines."""
    lines = "".join(f"{_to_base64(node)}\n" for node in path)
    return f"old {old}\n{lines}\n{note}"


def parse_consistency(text: str) -> tuple[int, list[bytes], str]:
    """Parse a proof of consistency; return the old size, the path, and the signed checkpoint.

    Raises:
        MalformedError: it is none.
    """
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or not lines[0].startswith("old "):
        raise MalformedError("This is not a proof of consistency: its first line does not name the old size.")
    return _number(lines[0].removeprefix("old "), "old size"), [_hash(line) for line in lines[1:]], note


def _number(text: str, what: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise MalformedError(f"The {what} is not a number.")
    return int(text)


def _hash(text: str) -> bytes:
    data = _from_base64(text, "hash")
    if len(data) != HASH_BYTES:
        raise MalformedError("A hash does not have 32 bytes.")
    return data


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str, what: str) -> bytes:
    """Return the bytes that the text encodes.

    Raises:
        MalformedError: it is not base64, or not in the one spelling that is allowed.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or _to_base64(data) != text:
        raise MalformedError(f"The {what} is not base64.")
    return data
