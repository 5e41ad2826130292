"""`chat-service verify`: verifies a proof on any machine, offline, without a database."""

import sys
from pathlib import Path

import click

from chat_service.proof.notes import MalformedError, VerifierKey
from chat_service.proof.verify import NotProvedError, sentence, verify, verify_growth


class _Key(click.ParamType[VerifierKey]):
    name = "key"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> VerifierKey:
        """Return the key that the text names."""
        try:
            return VerifierKey.of(value)
        except MalformedError as error:
            self.fail(str(error), param, ctx)


@click.group()
def main() -> None:
    """Commands that need no running service."""


@main.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", "keys", type=_Key(), multiple=True, required=True, help="As GET /api/v1/log/key returns it.")
@click.option("--chat", "chat_id", help="The chat that the proof must be about.")
@click.option("--since", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="An older checkpoint.")
def verify_file(file: Path, keys: tuple[VerifierKey, ...], chat_id: str | None, since: Path | None) -> None:
    """Verify the proof in FILE. Exits with 1 if it proves nothing.

    FILE proves a deletion or, with --since, that the log has only grown since an older checkpoint.
    """
    try:
        if since is None:
            statement = sentence(verify(file.read_bytes(), keys, chat_id))
        else:
            old, new = verify_growth(file.read_bytes(), since.read_bytes(), keys)
            statement = f"The log has grown from {old.size:,} to {new.size:,} entries, and no old entry has changed."
    except NotProvedError as error:
        click.echo(f"NOT PROVED. {error}", err=True)
        sys.exit(1)
    click.echo(f"PROVED. {statement}")
