"""`flask --app wsgi tenants|keys …`: customers of the service, and their keys."""

import re
from datetime import datetime, timedelta
from typing import Any

import click
from flask.cli import AppGroup

from chat_service.api.context import repositories
from chat_service.cli.plainly import known_tenant, report_errors
from chat_service.models import EVERYDAY_SCOPES, LIMIT_SYNTAX, ApiKey, RateLimit, Scope, Tenant, parse_limit
from chat_service.proof.notes import SigningKey

_SCOPES = click.Choice([scope.value for scope in Scope])

_DEFAULT = "default"

LIFE_DAYS_MOST = 3_650
"""The longest life of a key: ten years. A key that is to live longer gets no end."""

OVERLAP_DAYS_MOST = 90

GRACE_DAYS_MOST = 90
"""The same as the longest time that a chat can be in the trash."""

tenants = AppGroup("tenants", help="Customers of the service.")
keys = AppGroup("keys", help="API keys of a tenant.")


def _read_limit(_ctx: click.Context, _param: click.Parameter, value: str | None) -> RateLimit | str | None:
    """Return the limit that an option names; `off`, `default` and a missing option are returned as they are."""
    if value is None or value == _DEFAULT:
        return value
    try:
        return parse_limit(value) or value
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a limit. Write `{_DEFAULT}`, {LIMIT_SYNTAX}.") from None


def _read_grace(_ctx: click.Context, _param: click.Parameter, value: str) -> timedelta:
    """Return for how long a delete can be undone; zero for `off`."""
    if value == "off":
        return timedelta()
    match = re.fullmatch(r"([1-9][0-9]?)d", value, re.ASCII)
    if match is None or int(match[1]) > GRACE_DAYS_MOST:
        raise click.BadParameter(f"{value!r} is neither `off` nor a number of days from 1d to {GRACE_DAYS_MOST}d.")
    return timedelta(days=int(match[1]))


class Duration(click.ParamType[timedelta]):
    """Hours or days, like 48h or 90d, up to `days_most` days."""

    name = "duration"

    def __init__(self, days_most: int) -> None:
        self._longest = timedelta(days=days_most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration that the text names."""
        match = re.fullmatch(r"([0-9]{1,5})([hd])", value, re.ASCII)
        duration = timedelta(**{{"h": "hours", "d": "days"}[match[2]]: int(match[1])}) if match else None
        if duration is None or duration > self._longest:
            self.fail(f"{value!r} is not in hours or days, like 48h or 90d, up to {self._longest.days}d.", param, ctx)
        return duration


@tenants.command("create")
@click.argument("name")
@report_errors
def create_tenant(name: str) -> None:
    """Create a tenant called NAME and print its id."""
    click.echo(repositories().tenants.create(name).id)


@tenants.command("list")
@report_errors
def list_tenants() -> None:
    """List all tenants."""
    for tenant in repositories().tenants.list():
        click.echo(f"{tenant.id}  {tenant.created_at:%Y-%m-%d}  {_name_and_state(tenant)}")


def _name_and_state(tenant: Tenant) -> str:
    if tenant.deleted_at is not None:
        return f"(deleted {tenant.deleted_at:%Y-%m-%d})"
    return tenant.name if tenant.deletion_requested_at is None else f"{tenant.name} (being deleted)"


@tenants.command("grace")
@click.argument("tenant_id")
@click.argument("grace", callback=_read_grace)
@report_errors
def grant_grace(tenant_id: str, grace: timedelta) -> None:
    """Let keys with the scope `govern` restore what TENANT_ID deletes, for GRACE, like 7d; `off` ends this.

    To all other keys a deleted chat is gone at once. All processes apply the change within 5 seconds.
    """
    with known_tenant(tenant_id):
        repositories().tenants.set_grace(tenant_id, grace)
    click.echo(f"Deleted chats can be restored for {grace.days} d." if grace else "Deletes are final at once.")


@tenants.command("limit")
@click.argument("tenant_id")
@click.option("--read", callback=_read_limit, help=f"{LIMIT_SYNTAX}; or `{_DEFAULT}`.")
@click.option("--write", callback=_read_limit, help="As for --read.")
@click.option("--delete", callback=_read_limit, help="As for --read.")
@report_errors
def limit_tenant(tenant_id: str, **options: RateLimit | str | None) -> None:
    """Set the rate limits of each key of TENANT_ID, in every process within 5 seconds; then show all limits."""
    changes = {Scope(name): limit for name, limit in options.items() if limit is not None}
    to_default = [scope for scope, limit in changes.items() if limit == _DEFAULT]
    own_limits = {
        scope: limit if isinstance(limit, RateLimit) else None
        for scope, limit in changes.items()
        if scope not in to_default
    }
    repos = repositories()
    with known_tenant(tenant_id):
        if changes:
            repos.tenants.set_limits(tenant_id, own_limits, to_default)
        tenant = repos.tenants.get(tenant_id)
    for scope in EVERYDAY_SCOPES:
        source = "its own" if scope in tenant.limits else "default"
        click.echo(f"{scope:<6}  {repos.limits.of(tenant.limits, scope) or 'off'}  ({source})")


@keys.command("create")
@click.argument("tenant_id")
@click.option("--label", default="", help="What the key is for.")
@click.option("--scope", "scopes", type=_SCOPES, multiple=True, help="May be repeated. Default: all but govern.")
@click.option("--expires", "life", type=Duration(LIFE_DAYS_MOST), help="Lifetime, like 90d. Default: no end.")
@report_errors
def create_key(tenant_id: str, label: str, scopes: tuple[str, ...], life: timedelta | None) -> None:
    """Create a key for TENANT_ID and print it. It is shown only this once."""
    key_scopes = [Scope(scope) for scope in scopes] or EVERYDAY_SCOPES
    with known_tenant(tenant_id):
        key, record = repositories().keys.create(tenant_id, label, key_scopes, life=life)
    _show_once(key, record)


@keys.command("rotate")
@click.argument("tenant_id")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=Duration(OVERLAP_DAYS_MOST),
    default="48h",
    show_default=True,
    help="How long the old key stays valid; 0h ends it at once.",
)
@report_errors
def rotate_key(tenant_id: str, key_id: str, overlap: timedelta) -> None:
    """Create a key that replaces KEY_ID of TENANT_ID, and print it. KEY_ID stays valid for the overlap.

    The new key has the same label, scopes and lifetime.
    """
    try:
        key, record, old_key_ends_at = repositories().keys.rotate(tenant_id, key_id, overlap)
    except LookupError:
        raise _no_live_key(tenant_id, key_id) from None
    _show_once(key, record)
    click.echo(f"{key_id} stays valid until {old_key_ends_at:%Y-%m-%d %H:%M} UTC.", err=True)


def _show_once(key: str, record: ApiKey) -> None:
    click.echo(key)
    end = f" It expires at {record.expires_at:%Y-%m-%d %H:%M} UTC." if record.expires_at else ""
    click.echo(f"Save the key now: only its digest is stored.{end} Its id, to revoke it: {record.id}", err=True)


def _no_live_key(tenant_id: str, key_id: str) -> click.ClickException:
    return click.ClickException(f"Tenant {tenant_id} has no live key {key_id}; `keys list {tenant_id}` shows its keys.")


@keys.command("signing")
def make_signing_key() -> None:
    """Print a new key that signs checkpoints of the log. Put it into SIGNING_KEY, before the keys that are there."""
    click.echo(SigningKey.new())


@keys.command("list")
@click.argument("tenant_id")
@report_errors
def list_keys(tenant_id: str) -> None:
    """List the keys of TENANT_ID: what is known about each, but not the key itself."""
    now = repositories().database.now()
    for key in repositories().keys.list(tenant_id):
        scopes, used = ",".join(sorted(key.scopes)), f"used {key.last_used_on or 'never'}"
        click.echo(f"{key.id}  {key.prefix}...  {scopes}  {_state(key, now)}  {used}  {key.label}")


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    if key.expires_at is None:
        return "live"
    return f"{'expired' if key.expires_at <= now else 'live until'} {key.expires_at:%Y-%m-%d %H:%M}"


@keys.command("revoke")
@click.argument("tenant_id")
@click.argument("key_id")
@report_errors
def revoke_key(tenant_id: str, key_id: str) -> None:
    """Revoke the key KEY_ID of TENANT_ID. It stops working in every process within 5 seconds."""
    if not repositories().keys.revoke(tenant_id, key_id):
        raise _no_live_key(tenant_id, key_id)
    click.echo("Revoked.")
