"""`flask --app wsgi db|tenants|keys|chats|jobs|check …`: what an operator does from a shell."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import BinaryIO, ParamSpec, TypeVar

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext

from chat_service.api.context import repositories
from chat_service.api.imports import take_in
from chat_service.errors import ChatServiceError, InvalidImportError
from chat_service.jobs.expiry import Expiry
from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.reaper import OrphanReaper
from chat_service.jobs.runner import run, start
from chat_service.jobs.sequencing import Sequencing
from chat_service.models import EVERYDAY, LIMIT_SYNTAX, RateLimit, Scope, parse_limit
from chat_service.repository.migration import migrate

P = ParamSpec("P")
R = TypeVar("R")

_SCOPES = click.Choice([scope.value for scope in Scope])

_DEFAULT = "default"

GRACE_DAYS_MOST = 90
"""As long as a chat can be in the trash."""

_WRONG_SETTINGS = "WRONG_SETTINGS"

END_SECONDS = 3.0
"""For the jobs of a process to let go of what they hold; what they do not, ends by itself."""


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


def install(app: Flask) -> None:
    """Add the commands to the application."""
    for group in (_database, _tenants, _keys, _chats, _jobs, _log, check):
        app.cli.add_command(group)


def only_help(wrong_settings: str) -> Flask:
    """Return an application whose commands tell what they do, and in place of doing it what is wrong."""
    app = Flask("chat_service", static_folder=None)
    app.config[_WRONG_SETTINGS] = wrong_settings
    install(app)
    return app


def _told_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a domain error, wrong settings, and a database that is away, into a sentence and exit code 1."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        if _WRONG_SETTINGS in current_app.config:
            raise click.ClickException(current_app.config[_WRONG_SETTINGS])
        try:
            repositories().database.require_transactions()
            return command(*args, **kwargs)
        except ChatServiceError as error:
            sentence = str(error) or (type(error).__doc__ or "").strip()
            raise click.ClickException(sentence) from None

    return told


_database = AppGroup("db", help="The database's collections and indexes.")
_tenants = AppGroup("tenants", help="Customers of the service.")
_keys = AppGroup("keys", help="API keys of a tenant.")
_log = AppGroup("log", help="The log of what was taken away and brought back.")
_chats = AppGroup("chats", help="Chats that are too large for HTTP.")
_jobs = AppGroup("jobs", help="Background work: purging the messages of large deleted chats.")


@_database.command("init")
@_told_plainly
def init() -> None:
    """Create the collections and indexes that are missing, and bring what earlier versions wrote into today's form.

    Safe to repeat, and while the service runs; the release phase runs it.
    """
    repositories().database.prepare()
    click.echo("Collections and indexes are in place.")
    done = 0
    for documents in migrate(repositories().database):
        done += documents
        click.echo(f"{done:,} documents of an earlier version brought into today's form.")


@_tenants.command("create")
@click.argument("name")
@_told_plainly
def create_tenant(name: str) -> None:
    """Create a tenant called NAME and print its id."""
    click.echo(repositories().tenants.create(name).id)


@_tenants.command("list")
@_told_plainly
def list_tenants() -> None:
    """List all tenants."""
    for tenant in repositories().tenants.list():
        click.echo(f"{tenant.id}  {tenant.created_at:%Y-%m-%d}  {tenant.name}")


@_tenants.command("grace")
@click.argument("tenant_id")
@click.argument("grace", callback=_read_grace)
@_told_plainly
def grant_grace(tenant_id: str, grace: timedelta) -> None:
    """Have the deletes of TENANT_ID be taken back by keys with the scope `govern` for GRACE, like 7d; or `off`.

    Its front ends need not know: they are answered as if the chat were gone. All processes know within 5 seconds.
    """
    with _known(tenant_id):
        repositories().tenants.set_grace(tenant_id, grace)
    click.echo(f"Deletes can be taken back for {grace.days} d." if grace else "Deletes are for good at once.")


@_tenants.command("limit")
@click.argument("tenant_id")
@click.option("--read", callback=_read_limit, help=f"{LIMIT_SYNTAX}; or `{_DEFAULT}`.")
@click.option("--write", callback=_read_limit, help="The same.")
@click.option("--delete", callback=_read_limit, help="The same.")
@_told_plainly
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
    with _known(tenant_id):
        if changes:
            found.tenants.set_limits(tenant_id, own, to_default)
        tenant = found.tenants.get(tenant_id)
    for scope in EVERYDAY:
        whose = "its own" if scope in tenant.limits else "default"
        click.echo(f"{scope:<6}  {found.limits.of(tenant.limits, scope) or 'off'}  ({whose})")


@contextmanager
def _known(tenant_id: str) -> Iterator[None]:
    """Turn what the repository raises for a tenant that is not there into a sentence."""
    try:
        yield
    except LookupError:
        raise click.ClickException(f"There is no tenant {tenant_id}; `tenants list` shows them.") from None


@_keys.command("create")
@click.argument("tenant_id")
@click.option("--label", default="", help="What the key is for.")
@click.option("--scope", "scopes", type=_SCOPES, multiple=True, help="May be repeated; without it: all but govern.")
@_told_plainly
def create_key(tenant_id: str, label: str, scopes: tuple[str, ...]) -> None:
    """Make a key for TENANT_ID and print it: the only time it is shown."""
    wanted = [Scope(scope) for scope in scopes] or EVERYDAY
    with _known(tenant_id):
        key, made = repositories().tenants.create_key(tenant_id, label, wanted)
    click.echo(key)
    click.echo(f"Keep it now, it is stored only as a digest. Its id, to revoke it: {made.id}", err=True)


@_keys.command("list")
@click.argument("tenant_id")
@_told_plainly
def list_keys(tenant_id: str) -> None:
    """List the keys of TENANT_ID, without the keys themselves."""
    for key in repositories().tenants.list_keys(tenant_id):
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "live"
        click.echo(f"{key.id}  {key.prefix}...  {','.join(sorted(key.scopes))}  {state}  {key.label}")


@_keys.command("revoke")
@click.argument("tenant_id")
@click.argument("key_id")
@_told_plainly
def revoke_key(tenant_id: str, key_id: str) -> None:
    """Revoke the key KEY_ID of TENANT_ID; it is dead in every process within 5 seconds."""
    if not repositories().tenants.revoke_key(tenant_id, key_id):
        raise click.ClickException(f"Tenant {tenant_id} has no live key {key_id}; `keys list {tenant_id}` shows them.")
    click.echo("Revoked.")


@_jobs.command("run")
@click.option("--until-idle", is_flag=True, help="End when no purge is open, and show how it goes.")
@_told_plainly
def run_jobs(*, until_idle: bool) -> None:
    """Write the log, purge, delete what has expired, and free what dead processes hold, until told to stop (SIGTERM).

    Any number of these may run at once, and be killed.
    """
    stop, started = threading.Event(), list[threading.Thread]()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    expiry = Expiry(repositories().expired)
    sequencing = Sequencing(repositories().sequencer)
    start(OrphanReaper(repositories().orphans), stop)
    if until_idle:
        run(expiry, stop, until_done=True)
    else:
        started = [start(expiry, stop), start(sequencing, stop)]
    purges = repositories().purges

    def tell(_: int) -> None:
        if until_idle:
            click.echo("{} purges open, {:,} messages left".format(*purges.progress()))

    run(PurgeWorker(purges, stop), stop, until_done=until_idle, tell=tell)
    if until_idle:
        run(sequencing, stop, until_done=True)
    for thread in started:
        thread.join(END_SECONDS)


@_jobs.command("status")
@_told_plainly
def show_jobs() -> None:
    """Tell how much is left to purge."""
    click.echo("{} purges open, {:,} messages left".format(*repositories().purges.progress()))


@_log.command("status")
@_told_plainly
def show_log() -> None:
    """Tell how far the log is behind what is committed, and which process writes it. Ends with 1 if none does."""
    status = repositories().sequencer.status()
    if status.up_to is None or status.behind is None:
        click.echo("The log was never written; `flask --app wsgi jobs run` does it.")
    else:
        waiting = " It is looking through all receipts." if status.is_rescanning else ""
        click.echo(f"Up to {status.up_to:%Y-%m-%d %H:%M:%S} UTC, {status.behind.total_seconds():.1f} s ago.{waiting}")
    click.echo(f"Written by {status.process}." if status.process else "Nobody writes it: is a worker running?")
    if status.process is None:
        click.get_current_context().exit(1)


@_chats.command("import")
@click.argument("tenant_id")
@click.argument("file", type=click.File("rb"))
@_told_plainly
def import_chat(tenant_id: str, file: BinaryIO) -> None:
    """Make a chat of TENANT_ID from the ndjson export FILE, however large, and print its id: all of it, or nothing."""
    with _known(tenant_id):
        repositories().tenants.get(tenant_id)
    size = os.fstat(file.fileno()).st_size
    with click.progressbar(length=size, label="Importing", file=sys.stderr) as bar:
        try:
            chat = take_in(tenant_id, file, lambda line: bar.update(len(line)))
        except InvalidImportError as error:
            raise click.ClickException(f"This is not a whole export. {error.reason}") from None
    click.echo(chat.id)


@click.command("check")
@click.option("--repair", is_flag=True, help="Mend what can be mended without a person.")
@with_appcontext
@_told_plainly
def check(*, repair: bool) -> None:
    """Look for messages, leases, counts and receipts that do not agree. Ends with 1 if there are any."""
    wrong = repositories().database.shortcomings()
    for sentence in wrong:
        click.echo(sentence)
    number = len(wrong)
    for found in repositories().checks.run(repair=repair):
        number += 1
        click.echo(f"{found.kind}  tenant {found.tenant_id}  chat {found.chat_id}  {found.detail}")
    click.echo(f"{number} findings{', mended where that is possible' if number and repair else ''}.")
    if number:
        click.get_current_context().exit(1)
