"""`flask --app wsgi holds …`: what must stay."""

import uuid

import click
from flask.cli import AppGroup

from chat_service.api.context import repositories
from chat_service.cli.plainly import known_tenant, told_plainly
from chat_service.errors import HoldNotFoundError, UnknownChatsError
from chat_service.models import Hold

BY_OPERATOR = "operator"
"""Who has placed a hold from a shell, in its record and in the log."""

MOST_SHOWN = 1_000

holds = AppGroup("holds", help="Chats that must not be destroyed.")


@holds.command("place")
@click.argument("tenant_id")
@click.argument("name")
@click.argument("chat_ids", nargs=-1, type=click.UUID)
@click.option("--everything", is_flag=True, help="In place of CHAT_IDS: all chats, also those that are still to come.")
@told_plainly
def place_hold(tenant_id: str, name: str, chat_ids: tuple[uuid.UUID, ...], *, everything: bool) -> None:
    """Hold CHAT_IDS of TENANT_ID, or everything, under a NAME; print the hold's id."""
    if everything == bool(chat_ids):
        raise click.UsageError("Name either chats, or --everything.")
    ids = None if everything else list(dict.fromkeys(map(str, chat_ids)))
    with known_tenant(tenant_id):
        repositories().tenants.get(tenant_id)
    try:
        hold = repositories().holds.place(tenant_id, name, ids, BY_OPERATOR)
    except UnknownChatsError as error:
        raise click.ClickException(f"There is no such chat of this tenant: {', '.join(error.chat_ids)}") from None
    click.echo(hold.id)
    click.echo(f"Nothing of it is deleted from {hold.active_from:%Y-%m-%d %H:%M:%S} UTC on.", err=True)


@holds.command("list")
@click.argument("tenant_id")
@told_plainly
def list_holds(tenant_id: str) -> None:
    """List the holds of TENANT_ID, latest first."""
    for hold in repositories().holds.page(tenant_id, MOST_SHOWN, None):
        state = f"released {hold.released_at:%Y-%m-%d %H:%M}" if hold.released_at else "in force"
        click.echo(f"{hold.id}  {hold.placed_at:%Y-%m-%d %H:%M}  {_extent(hold)}  {state}  {hold.name}")


@holds.command("release")
@click.argument("tenant_id")
@click.argument("hold_id", type=click.UUID)
@told_plainly
def release_hold(tenant_id: str, hold_id: uuid.UUID) -> None:
    """Release the hold HOLD_ID of TENANT_ID; jobs delete what was due meanwhile after 24 h."""
    try:
        hold = repositories().holds.release(tenant_id, str(hold_id), BY_OPERATOR)
    except HoldNotFoundError:
        raise click.ClickException(
            f"Tenant {tenant_id} has no hold {hold_id}; `holds list {tenant_id}` shows them."
        ) from None
    click.echo(f"Released: {_extent(hold)}.")


def _extent(hold: Hold) -> str:
    return "everything" if hold.everything else f"{hold.chat_count:,} chats"
