"""`flask --app wsgi tenants export|delete|proof …`: a customer who leaves."""

import sys
from pathlib import Path
from typing import TextIO

import click
from flask.cli import with_appcontext

from chat_service.api.context import repositories
from chat_service.api.proofs import signed
from chat_service.api.tenant_exports import MemberCount, write_tenant
from chat_service.cli.governing import BY_OPERATOR
from chat_service.cli.plainly import counted, known_tenant, report_errors
from chat_service.errors import LegalHoldError, NotSignedError, ProofNotReadyError
from chat_service.models import Kind, TenantDeletion


@click.command("export")
@click.argument("tenant_id")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@with_appcontext
@report_errors
def export_tenant(tenant_id: str, file: Path) -> None:
    """Write all chats of TENANT_ID, also those in the trash, and its log into the zip FILE.

    Each chat is an ndjson export of one moment, which `chats import` accepts. FILE appears when it is complete.
    """
    with known_tenant(tenant_id):
        tenant = repositories().tenants.get(tenant_id)
    chat_count = repositories().tenants.count_chats(tenant_id)
    with click.progressbar(length=chat_count, label="Exporting", file=sys.stderr) as bar:
        counts = write_tenant(tenant, file, lambda: bar.update(1))
    click.echo(_summary(counts))


def _summary(counts: MemberCount) -> str:
    return f"{counted(counts.chats, 'chat')}, {counts.trashed:,} more in the trash, {counts.entries:,} log entries."


@click.command("delete")
@click.argument("tenant_id")
@click.option("--name", required=True, help="The tenant's name, to make sure that this is the right tenant.")
@with_appcontext
@report_errors
def delete_tenant(tenant_id: str, name: str) -> None:
    """Delete TENANT_ID with all its chats, for good. `jobs run` does the work; repeat this command to see the progress.

    Its keys stop working at once, and its id never comes back. The log and the receipts stay, for `tenants proof`.
    """
    repos = repositories()
    with known_tenant(tenant_id):
        tenant = repos.tenants.get(tenant_id)
        if tenant.deletion_requested_at is None and tenant.name != name:
            raise click.ClickException(
                f"Nothing was deleted: tenant {tenant_id} has another name; `tenants list` shows it."
            )
        try:
            repos.tenant_deletions.request(tenant_id, BY_OPERATOR)
        except LegalHoldError as error:
            raise click.ClickException(
                f"Nothing was deleted: holds keep chats of this tenant. Release them first: {', '.join(error.holds)}"
            ) from None
    click.echo(_progress(repos.tenant_deletions.get(tenant_id)))


def _progress(deletion: TenantDeletion) -> str:
    if deletion.completed_at is not None:
        return f"Deleted at {deletion.completed_at:%Y-%m-%d %H:%M} UTC."
    return f"Being deleted: {counted(deletion.chats, 'chat')} left, {counted(deletion.purges, 'purge')} open."


@click.command("proof")
@click.argument("tenant_id")
@click.argument("file", type=click.File("w"), default="-")
@with_appcontext
@report_errors
def prove_deletion(tenant_id: str, file: TextIO) -> None:
    """Write the proof that TENANT_ID was deleted into FILE; `chat-service verify` verifies it."""
    try:
        file.write(signed(repositories().proofs.inclusion(tenant_id, "", Kind.TENANT_DELETED)))
    except ProofNotReadyError:
        raise click.ClickException(
            f"The deletion is not in the log yet; `tenants delete {tenant_id}` shows its progress. Is a worker running?"
        ) from None
    except NotSignedError:
        raise click.ClickException("SIGNING_KEY is not set; `keys signing` makes a key for it.") from None


COMMANDS = (export_tenant, delete_tenant, prove_deletion)
"""Commands that belong to the group `tenants`."""
