"""`flask --app wsgi tenants|keys …`: customers of the service, and their keys."""

import re
from datetime import timedelta

import click
from flask.cli import AppGroup

from chat_service.api.context import repositories
from chat_service.cli.plainly import known_tenant, told_plainly
from chat_service.models import EVERYDAY, LIMIT_SYNTAX, RateLimit, Scope, parse_limit
from chat_service.proof.notes import SigningKey

_SCOPES = click.Choice([scope.value for scope in Scope])

_DEFAULT = "default"

GRACE_DAYS_MOST = 90
"""As long as a chat can be in the trash."""

tenants = AppGroup("tenants", help="Customers of the service.")
keys = AppGroup("keys", help="API keys of a tenant.")


def _read_limit(_ctx: click.Context, _param: click.Parameter, value: str | None) -> RateLimit | str | None:
    """Return the limit that an option names, or `off` or `default` as they are."""
    if value is None or value == _DEFAULT:
        return value
    try:
        return parse_limit(value) or value
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither `{_DEFAULT}` nor {LIMIT_SYNTAX}.") from None


def _read_grace(_ctx: click.Context, _param: click.Parameter, value: str) -> timedelta:
    """Return how long deletes can be taken back."""
    if value == "off":
        return timedelta()
    days = re.fullmatch(r"([1-9][0-9]?)d", value, re.ASCII)
    if days is None or int(days[1]) > GRACE_DAYS_MOST:
        raise click.BadParameter(f"{value!r} is neither `off` nor days from 1d to {GRACE_DAYS_MOST}d.")
    return timedelta(days=int(days[1]))


@tenants.command("create")
@click.argument("name")
@told_plainly
def create_tenant(name: str) -> None:
    """Create a tenant called NAME and print its id."""
    click.echo(repositories().tenants.create(name).id)


@tenants.command("list")
@told_plainly
def list_tenants() -> None:
    """List all tenants."""
    for tenant in repositories().tenants.list():
        click.echo(f"{tenant.id}  {tenant.created_at:%Y-%m-%d}  {tenant.name}")


@tenants.command("grace")
@click.argument("tenant_id")
@click.argument("grace", callback=_read_grace)
@told_plainly
def grant_grace(tenant_id: str, grace: timedelta) -> None:
    """Have the deletes of TENANT_ID be taken back by keys with the scope `govern` for GRACE, like 7d; or `off`.

    Its front ends need not know: they are answered as if the chat were gone. All processes know within 5 seconds.
    """
    with known_tenant(tenant_id):
        repositories().tenants.set_grace(tenant_id, grace)
    click.echo(f"Deletes can be taken back for {grace.days} d." if grace else "Deletes are for good at once.")


@tenants.command("limit")
@click.argument("tenant_id")
@click.option("--read", callback=_read_limit, help=f"{LIMIT_SYNTAX}; or `{_DEFAULT}`.")
@click.option("--write", callback=_read_limit, help="The same.")
@click.option("--delete", callback=_read_limit, help="The same.")
@told_plainly
def limit_tenant(tenant_id: str, **told: RateLimit | str | None) -> None:
    """Set how often each key of TENANT_ID may ask, in every process within 5 seconds; show what holds."""
    changes = {Scope(name): limit for name, limit in told.items() if limit is not None}
    to_default = [scope for scope, limit in changes.items() if limit == _DEFAULT]
    own = {
        scope: limit if isinstance(limit, RateLimit) else None
        for scope, limit in changes.items()
        if scope not in to_default
    }
    found = repositories()
    with known_tenant(tenant_id):
        if changes:
            found.tenants.set_limits(tenant_id, own, to_default)
        tenant = found.tenants.get(tenant_id)
    for scope in EVERYDAY:
        whose = "its own" if scope in tenant.limits else "default"
        click.echo(f"{scope:<6}  {found.limits.of(tenant.limits, scope) or 'off'}  ({whose})")


@keys.command("create")
@click.argument("tenant_id")
@click.option("--label", default="", help="What the key is for.")
@click.option("--scope", "scopes", type=_SCOPES, multiple=True, help="May be repeated; without it: all but govern.")
@told_plainly
def create_key(tenant_id: str, label: str, scopes: tuple[str, ...]) -> None:
    """Make a key for TENANT_ID and print it: the only time it is shown."""
    wanted = [Scope(scope) for scope in scopes] or EVERYDAY
    with known_tenant(tenant_id):
        key, made = repositories().tenants.create_key(tenant_id, label, wanted)
    click.echo(key)
    click.echo(f"Keep it now, it is stored only as a digest. Its id, to revoke it: {made.id}", err=True)


@keys.command("signing")
def make_signing_key() -> None:
    """Print a new key to sign checkpoints of the log with: for SIGNING_KEY, before those that it has already."""
    click.echo(SigningKey.new())


@keys.command("list")
@click.argument("tenant_id")
@told_plainly
def list_keys(tenant_id: str) -> None:
    """List the keys of TENANT_ID, without the keys themselves."""
    for key in repositories().tenants.list_keys(tenant_id):
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "live"
        click.echo(f"{key.id}  {key.prefix}...  {','.join(sorted(key.scopes))}  {state}  {key.label}")


@keys.command("revoke")
@click.argument("tenant_id")
@click.argument("key_id")
@told_plainly
def revoke_key(tenant_id: str, key_id: str) -> None:
    """Revoke the key KEY_ID of TENANT_ID; it is dead in every process within 5 seconds."""
    if not repositories().tenants.revoke_key(tenant_id, key_id):
        raise click.ClickException(f"Tenant {tenant_id} has no live key {key_id}; `keys list {tenant_id}` shows them.")
    click.echo("Revoked.")
