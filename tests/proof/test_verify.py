"""Proofs verify with our implementation and with an independent one, and nothing else does."""

import base64
import random

import pytest
from click.testing import CliRunner
from proofbundle.checkpoint import verify_checkpoint
from proofbundle.tlogproof import verify_tlog_proof

from chat_service.models import Event, Kind, LogEntry
from chat_service.proof.command import main
from chat_service.proof.leaves import leaf_bytes, read_leaf
from chat_service.proof.merkle import Frontier, Node, leaf_hash
from chat_service.proof.notes import (
    MalformedError,
    Proof,
    SigningKey,
    VerifierKey,
    open_checkpoint,
    origin_of,
    parse_proof,
    proof_text,
)
from chat_service.proof.verify import MOST_BYTES, NotProvedError, sentence, verify, verify_growth
from tests.proof.logs import AT, ENTRIES, OTHER, TENANT, Log, chat, entry, tampered

LOG = Log()


@pytest.mark.parametrize("seq", range(1, ENTRIES + 1))
def test_every_entry_is_proved_to_another_implementation_too(seq: int) -> None:
    text = LOG.proof(seq)
    proved = verify(text.encode(), [LOG.verifier], chat(seq))
    assert (proved.entry["seq"], proved.checkpoint.size) == (seq, ENTRIES)
    theirs = verify_tlog_proof(text, LOG.leaves[seq - 1], str(LOG.verifier), expected_origin=origin_of(TENANT))
    assert theirs["ok"] is True, theirs


def test_the_other_implementation_refuses_a_wrong_leaf() -> None:
    """Otherwise its success in the test above would mean nothing."""
    theirs = verify_tlog_proof(LOG.proof(3), LOG.leaves[3], str(LOG.verifier), expected_origin=origin_of(TENANT))
    assert theirs["ok"] is False


def test_another_implementation_verifies_a_checkpoint() -> None:
    theirs = verify_checkpoint(LOG.note(), str(LOG.verifier))
    assert (theirs["ok"], theirs["tree_size"], theirs["root"]) == (True, ENTRIES, LOG.roots[-1])
    checkpoint, key = open_checkpoint(LOG.note(7), [LOG.verifier])
    assert (checkpoint.size, checkpoint.root, key) == (7, LOG.roots[7], LOG.verifier)


def test_a_leaf_never_changes() -> None:
    """Existing proofs contain exactly these bytes, signed; see proof/leaves.py."""
    facts = {"purge_at": AT, "message_count": 3, "hold_ids": ["b", "a"], "export_sha256": None, "in_grace": True}
    trashed = LogEntry(12, AT, Event(Kind.CHAT_TRASHED, chat(1), "0123456789ab", facts))
    assert leaf_bytes(TENANT, trashed) == (
        b'{"actor":"0123456789ab","at":"2026-11-27T20:15:00.123Z","chat_id":"a1b2c3d4-e5f6-4a7b-8c9d-000000000001",'
        b'"export_sha256":null,"hold_ids":["b","a"],"in_grace":true,"kind":"chat.trashed","message_count":3,'
        b'"purge_at":"2026-11-27T20:15:00.123Z","seq":12,"tenant_id":"6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}'
    )
    assert leaf_bytes(TENANT, entry(5)) == (
        b'{"actor":"0123456789ab","at":"2026-11-27T20:15:00.123Z","chat_id":"a1b2c3d4-e5f6-4a7b-8c9d-000000000005",'
        b'"covers":["api","collection"],"kind":"chat.purged","message_count":1205,"seq":5,'
        b'"tenant_id":"6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}'
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_a_leaf_can_be_read_back(kind: Kind) -> None:
    original = LogEntry(
        1, AT, Event(kind, chat(1) if kind is not Kind.RETENTION_CHANGED else "", "k", {"a": 1, "b": None})
    )
    assert read_leaf(leaf_bytes(TENANT, original)) == (TENANT, original)


def test_a_key_can_be_parsed_from_its_text() -> None:
    assert VerifierKey.of(str(LOG.verifier)) == LOG.verifier
    assert VerifierKey.of(f"  {LOG.verifier}\n") == LOG.verifier
    with pytest.raises(MalformedError):
        VerifierKey.of(str(LOG.verifier).replace("4", "5", 1))


def test_old_keys_still_verify() -> None:
    newer = Log(key=SigningKey(SigningKey.new()))
    ring = [newer.verifier, LOG.verifier]
    for log in (newer, LOG):
        assert verify(log.proof(4).encode(), ring).key == log.verifier


def refusal(data: bytes | str, keys: list[VerifierKey] | None = None, chat_id: str | None = None) -> str:
    raw = data.encode() if isinstance(data, str) else data
    with pytest.raises(NotProvedError) as refused:
        verify(raw, keys or [LOG.verifier], chat_id)
    return str(refused.value)


class TestRefused:
    def test_another_chat(self) -> None:
        assert "another chat" in refusal(LOG.proof(3), chat_id=chat(4))

    def test_another_key(self) -> None:
        assert "None of the keys" in refusal(Log(key=SigningKey(SigningKey.new())).proof(3))

    def test_another_tenants_log(self) -> None:
        assert "None of the keys" in refusal(Log(OTHER).proof(3))

    def test_another_tenants_log_under_a_known_key(self) -> None:
        """A leaf of one log is not in the tree of another."""
        stolen = Log(OTHER)
        stolen.leaves = LOG.leaves
        forged = stolen.proof(3)
        assert "not in the log" in refusal(forged, [stolen.verifier])

    def test_another_tenants_entry_in_this_log(self) -> None:
        """The entry is signed and in the tree, but names another tenant than the log does."""
        assert "another log" in refusal(Log(leaves_of=OTHER).proof(3))

    def test_an_older_tree(self) -> None:
        older = LOG.proof(20).partition("\n\n")[0] + "\n\n" + LOG.note(12)
        assert "older than the entry" in refusal(older)
        assert "not in the log" in refusal(LOG.proof(5).partition("\n\n")[0] + "\n\n" + LOG.note(12))

    def test_another_entry_with_the_path_of_this_one(self) -> None:
        proof = parse_proof(LOG.proof(3))
        assert "not in the log" in refusal(proof_text(Proof(LOG.leaves[6], proof.index, proof.path, proof.note)))

    def test_data_that_is_no_proof(self) -> None:
        for data in (b"", b"\xff", b"c2sp.org/tlog-proof@v1\n", b"x" * (MOST_BYTES + 1), LOG.note().encode()):
            assert refusal(data)

    def test_another_encoding_of_the_same_hash(self) -> None:
        """The last character of a hash in base64 has two unused bits, which must be zero."""
        head, line, rest = LOG.proof(3).rpartition("\n" + base64.b64encode(LOG.roots[-1]).decode())
        respelt = line[:-2] + chr(ord(line[-2]) + 1) + "="
        assert base64.b64decode(respelt) == LOG.roots[-1]
        assert "not base64" in refusal(head + respelt + rest)

    def test_a_log_that_signs_with_anothers_name(self) -> None:
        """The name in the signature must be the name of the log."""
        forged = LOG.note().replace(origin_of(TENANT), origin_of(OTHER), 1)
        with pytest.raises(MalformedError, match="None of the keys"):
            open_checkpoint(forged, [LOG.verifier])

    def test_a_thousand_tamperings(self) -> None:
        """Each of 1,000 random tamperings is found."""
        dice = random.Random(20261127)
        for _ in range(1_000):
            data = tampered(LOG.proof(dice.randint(1, ENTRIES)), dice)
            assert refusal(data), data


class TestGrowth:
    @pytest.mark.parametrize("old", range(1, ENTRIES + 1))
    def test_it_is_proved(self, old: int) -> None:
        before, now = verify_growth(LOG.growth(old).encode(), LOG.note(old).encode(), [LOG.verifier])
        assert (before.size, now.size) == (old, ENTRIES)

    def test_a_rewritten_log_is_found(self) -> None:
        rewritten = Log()
        rewritten.leaves = rewritten.leaves[::-1]
        tree = Frontier()
        rewritten.roots = [tree.root()]
        for number, leaf in enumerate(rewritten.leaves):
            for level, subtree_hash in enumerate(tree.append(leaf_hash(leaf))):
                rewritten.nodes[Node(level, number >> level)] = subtree_hash
            rewritten.roots.append(tree.root())
        with pytest.raises(NotProvedError, match="rewritten"):
            verify_growth(rewritten.growth(9).encode(), LOG.note(9).encode(), [LOG.verifier])

    def test_a_proof_of_growth_from_another_checkpoint_is_refused(self) -> None:
        with pytest.raises(NotProvedError, match="not about"):
            verify_growth(LOG.growth(9).encode(), LOG.note(8).encode(), [LOG.verifier])


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        (tmp_path / "proof").write_text(LOG.proof(3))
        (tmp_path / "growth").write_text(LOG.growth(9))
        (tmp_path / "old").write_text(LOG.note(9))
        (tmp_path / "bad").write_text(LOG.proof(3).replace("index 2", "index 3"))

        def invoke(name: str, *options: str):
            arguments = [str(tmp_path / option) if option == "old" else option for option in options]
            return CliRunner().invoke(main, ["verify", str(tmp_path / name), "--key", str(LOG.verifier), *arguments])

        return invoke

    def test_a_valid_proof_is_explained_in_a_sentence(self, run) -> None:
        done = run("proof", "--chat", chat(3))
        assert done.exit_code == 0
        assert done.stdout.startswith(f"PROVED. Chat {chat(3)} was deleted with its 1,203 messages at 2026-11-27T20:15")
        assert "entry 3 of 21 in the log of tenant" in done.stdout

    def test_an_invalid_proof_exits_with_1(self, run) -> None:
        done = run("bad")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("NOT PROVED. The entry is not in the log")

    def test_a_wrong_key_exits_with_2_and_says_the_right_form(self, run) -> None:
        done = run("proof", "--key", "x")
        assert done.exit_code == 2
        assert "name+id+key" in done.stderr

    def test_growth(self, run) -> None:
        done = run("growth", "--since", "old")
        assert (done.exit_code, done.stdout) == (
            0,
            "PROVED. The log has grown from 9 to 21 entries, and no old entry has changed.\n",
        )


def test_the_sentence_says_what_a_purge_proves() -> None:
    text = sentence(verify(LOG.proof(5).encode(), [LOG.verifier]))
    assert "nothing of it was left in the service's database" in text
