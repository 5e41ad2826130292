"""`flask --app wsgi holds|retention|erasures|webhooks …`: which data must be kept, and which must be deleted."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask.cli import AppGroup

from chat_service.api.context import repositories
from chat_service.api.erasure_schemas import MODES
from chat_service.api.retention_schemas import ACTIONS, DAYS_MOST, PER_DAY_MOST
from chat_service.cli.plainly import counted, known_tenant, report_errors
from chat_service.errors import HoldNotFoundError, NoRetentionError, UnknownChatsError, WebhookNotFoundError
from chat_service.models import ErasureMode, Hold, Retention, RetentionAction
from chat_service.repository.sealing import new_key

BY_OPERATOR = "operator"
"""The actor of what is done from a shell, in records and in the log."""

MOST_SHOWN = 1_000

holds = AppGroup("holds", help="Holds, which keep chats from being deleted.")
webhooks = AppGroup("webhooks", help="Webhooks: the log, delivered to other services.")
erasures = AppGroup("erasures", help="Erasures of what one person has written.")
retention = AppGroup("retention", help="Retention: removing chats after a time without activity.")


@holds.command("place")
@click.argument("tenant_id")
@click.argument("name")
@click.argument("chat_ids", nargs=-1, type=click.UUID)
@click.option("--everything", is_flag=True, help="Hold all chats, also future ones, in place of CHAT_IDS.")
@report_errors
def place_hold(tenant_id: str, name: str, chat_ids: tuple[uuid.UUID, ...], *, everything: bool) -> None:
    """Place a hold called NAME on CHAT_IDS of TENANT_ID, or on everything; print the hold's id."""
    if everything == bool(chat_ids):
        raise click.UsageError("Give either CHAT_IDS or --everything.")
    ids = None if everything else list(dict.fromkeys(map(str, chat_ids)))
    with known_tenant(tenant_id):
        repositories().tenants.get(tenant_id)
    try:
        hold = repositories().holds.place(tenant_id, name, ids, BY_OPERATOR)
    except UnknownChatsError as error:
        raise click.ClickException(
            f"No hold was placed, because this tenant has no such chats: {', '.join(error.chat_ids)}"
        ) from None
    click.echo(hold.id)
    click.echo(f"From {hold.active_from:%Y-%m-%d %H:%M:%S} UTC on nothing that it covers can be deleted.", err=True)


@holds.command("list")
@click.argument("tenant_id")
@report_errors
def list_holds(tenant_id: str) -> None:
    """List the holds of TENANT_ID, latest first."""
    for hold in repositories().holds.page(tenant_id, MOST_SHOWN, None):
        state = f"released {hold.released_at:%Y-%m-%d %H:%M}" if hold.released_at else "in force"
        click.echo(f"{hold.id}  {hold.placed_at:%Y-%m-%d %H:%M}  {_extent(hold)}  {state}  {hold.name}")


@holds.command("release")
@click.argument("tenant_id")
@click.argument("hold_id", type=click.UUID)
@report_errors
def release_hold(tenant_id: str, hold_id: uuid.UUID) -> None:
    """Release the hold HOLD_ID of TENANT_ID. What became due during the hold is deleted no sooner than 24 h later."""
    try:
        hold = repositories().holds.release(tenant_id, str(hold_id), BY_OPERATOR)
    except HoldNotFoundError:
        raise click.ClickException(
            f"Tenant {tenant_id} has no hold {hold_id}; `holds list {tenant_id}` shows its holds."
        ) from None
    click.echo(f"Released: {_extent(hold)}.")


def _extent(hold: Hold) -> str:
    return "everything" if hold.everything else counted(hold.chat_count, "chat")


@retention.command("show")
@click.argument("tenant_id")
@report_errors
def show_retention(tenant_id: str) -> None:
    """Show the retention policy of TENANT_ID."""
    with known_tenant(tenant_id):
        repositories().tenants.get(tenant_id)
    try:
        policy = repositories().retention.get(tenant_id)
    except NoRetentionError:
        click.echo("No policy: chats stay until somebody deletes them.")
        return
    click.echo(_describe(policy))
    if policy.before is not None and repositories().database.now() < policy.active_from:
        click.echo(f"Until then it removes only what the earlier policy also removes: {_describe(policy.before)}")


@retention.command("set")
@click.argument("tenant_id")
@click.argument("days", type=click.IntRange(1, DAYS_MOST))
@click.option(
    "--action",
    type=click.Choice(ACTIONS),
    default=RetentionAction.DELETE.value,
    show_default=True,
    help="Delete the chats, or move them to the trash.",
)
@click.option(
    "--max-per-day",
    type=click.IntRange(1, PER_DAY_MOST),
    default=PER_DAY_MOST,
    show_default=True,
    help="How many chats may be removed in a day.",
)
@report_errors
def set_retention(tenant_id: str, days: int, action: str, max_per_day: int) -> None:
    """Have chats of TENANT_ID removed after DAYS without activity. The policy is in force 24 h later."""
    with known_tenant(tenant_id):
        policy = repositories().retention.put(tenant_id, days, RetentionAction(action), max_per_day, BY_OPERATOR)
    click.echo(_describe(policy))


@retention.command("preview")
@click.argument("tenant_id")
@click.argument("days", type=click.IntRange(1, DAYS_MOST))
@report_errors
def preview_retention(tenant_id: str, days: int) -> None:
    """Count the chats of TENANT_ID that a policy of DAYS would remove if it were in force now."""
    preview = repositories().retention.preview(tenant_id, days)
    click.echo(f"{preview.chats:,} chats with {preview.messages:,} messages; holds keep {preview.held:,} more.")


@retention.command("end")
@click.argument("tenant_id")
@report_errors
def end_retention(tenant_id: str) -> None:
    """End the retention policy of TENANT_ID at once."""
    try:
        repositories().retention.end(tenant_id, BY_OPERATOR)
    except NoRetentionError:
        raise click.ClickException(f"Tenant {tenant_id} has no retention policy.") from None
    click.echo("Ended: retention removes no more chats.")


def _describe(policy: Retention) -> str:
    rule = (
        f"{policy.action} after {policy.delete_after_days} days without activity, "
        f"at most {policy.max_per_day:,} chats a day"
    )
    return f"{rule}; in force from {policy.active_from:%Y-%m-%d %H:%M} UTC."


@erasures.command("request")
@click.argument("tenant_id")
@click.argument("sender_id")
@click.option("--mode", type=click.Choice(MODES), required=True, help="Empty the messages, or remove them.")
@report_errors
def request_erasure(tenant_id: str, sender_id: str, mode: str) -> None:
    """Erase everything that SENDER_ID has written in chats of TENANT_ID; print the id of the erasure."""
    with known_tenant(tenant_id):
        repositories().tenants.get(tenant_id)
    click.echo(repositories().erasures.request(tenant_id, sender_id, ErasureMode(mode), BY_OPERATOR).id)


@erasures.command("list")
@click.argument("tenant_id")
@report_errors
def list_erasures(tenant_id: str) -> None:
    """List the erasures of TENANT_ID, latest first."""
    for erasure in repositories().erasures.page(tenant_id, MOST_SHOWN, None):
        state = f"complete {erasure.completed_at:%Y-%m-%d %H:%M}" if erasure.completed_at else "under way"
        deferred = f", {erasure.deferred:,} chats wait until a hold is released" if erasure.is_deferred else ""
        done = f"{erasure.mode}: {erasure.messages:,} messages in {erasure.chats:,} chats{deferred}"
        click.echo(f"{erasure.id}  {erasure.requested_at:%Y-%m-%d %H:%M}  {state}  {done}")


@webhooks.command("key")
def make_webhook_key() -> None:
    """Print a new key for WEBHOOK_SECRET_KEY, which encrypts the secrets of webhooks.

    To change keys, put the new one before the old one, separated by a comma.
    """
    click.echo(new_key())


@webhooks.command("list")
@click.argument("tenant_id")
@report_errors
def list_webhooks(tenant_id: str) -> None:
    """List the webhooks of TENANT_ID, latest first."""
    for webhook in repositories().webhooks.page(tenant_id, MOST_SHOWN, None):
        state = "enabled" if webhook.enabled else f"disabled by {webhook.disabled_by}"
        kinds = "all kinds" if webhook.kinds is None else ",".join(webhook.kinds)
        click.echo(f"{webhook.id}  {state}  up to entry {webhook.position}  {kinds}  {webhook.url}")


@webhooks.command("replay")
@click.argument("tenant_id")
@click.argument("webhook_id", type=click.UUID)
@click.argument("after", type=click.IntRange(0))
@report_errors
def replay_webhook(tenant_id: str, webhook_id: uuid.UUID, after: int) -> None:
    """Deliver to the webhook WEBHOOK_ID of TENANT_ID again all entries of the log after number AFTER."""
    with _known_webhook(tenant_id):
        webhook = repositories().webhooks.replay(tenant_id, str(webhook_id), after)
    click.echo(f"Entries {after + 1} to {webhook.position} will be delivered again.")


@webhooks.command("disable")
@click.argument("tenant_id")
@click.argument("webhook_id", type=click.UUID)
@report_errors
def disable_webhook(tenant_id: str, webhook_id: uuid.UUID) -> None:
    """Deliver nothing more to the webhook WEBHOOK_ID of TENANT_ID until it is enabled again."""
    with _known_webhook(tenant_id):
        repositories().webhooks.disable(tenant_id, str(webhook_id), BY_OPERATOR)
    click.echo("Disabled.")


@contextmanager
def _known_webhook(tenant_id: str) -> Iterator[None]:
    try:
        yield
    except WebhookNotFoundError:
        raise click.ClickException(
            f"Tenant {tenant_id} has no such webhook; `webhooks list {tenant_id}` shows its webhooks."
        ) from None
