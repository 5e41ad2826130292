"""`flask --app wsgi status`: one screen of a service's health."""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import click
from flask import current_app
from flask.cli import with_appcontext

from chat_service.api.context import Repositories, repositories
from chat_service.cli.plainly import counted, report_errors, unguarded
from chat_service.proof.ledger_file import LedgerError
from chat_service.repository.health import MOST, Backlog
from chat_service.repository.ledger import Ledger

BEHIND = timedelta(seconds=30)
"""A log, a replica set or a delivery that is later than this needs a look. Normal is less than two seconds."""


class Row(NamedTuple):
    """A line of the screen."""

    name: str
    text: str
    advice: str = ""
    """What to do; empty if all is well."""


@click.command("status")
@with_appcontext
@unguarded
@report_errors
def status() -> None:
    """Show the health of the database, the log and the background work. Exits with 1 if anything needs attention."""
    repos = repositories()
    now = repos.database.now()
    click.echo(f"chat-service {current_app.config['API_VERSION']}, {now:%Y-%m-%d %H:%M:%S} UTC")
    rows = list(_rows(repos))
    for row in rows:
        click.echo(f"{'!' if row.advice else ' '} {row.name:<11} {row.text}")
        if row.advice:
            click.echo(f"{'':<13} {row.advice}")
    if any(row.advice for row in rows):
        click.get_current_context().exit(1)


def _rows(repos: Repositories) -> Iterator[Row]:
    yield _database_row(repos)
    yield _collections_row(repos)
    yield _oplog_row(repos)
    yield _log_row(repos)
    if repos.ledger is not None:
        yield _ledger_row(repos.ledger)
    purges = repos.purges.progress()
    yield Row("purges", f"{purges.open:,} open, {counted(purges.messages, 'message')} left")
    yield from _backlog_rows(repos.health.backlog(), repos.health.webhooks().late)
    overdue = sum(repos.retention.overdue().values())
    advice = "They were due two days ago: is a worker running? Is max_per_day too low?"
    yield Row("retention", f"{counted(overdue, 'chat')} overdue", advice if overdue else "")


def _database_row(repos: Repositories) -> Row:
    server = repos.health.server()
    text = f"MongoDB {server.version}, primary {server.primary}"
    if server.lag is None:
        return Row("database", text)
    lag = f"{server.lag.total_seconds():.0f} s"
    text = f"{text}, {counted(server.members, 'member')}, the majority {lag} behind"
    return Row("database", text, "Deletes wait for a majority: look at the secondaries." if server.lag > BEHIND else "")


def _collections_row(repos: Repositories) -> Row:
    shortcomings = repos.database.shortcomings()
    return Row("collections", f"{len(shortcomings)} wrong" if shortcomings else "as required", " ".join(shortcomings))


def _oplog_row(repos: Repositories) -> Row:
    window = repos.database.oplog_window()
    if window is None:
        return Row("oplog", "cannot be read by this user")
    return Row("oplog", f"reaches back {window.total_seconds() / 3600:,.1f} h")


def _log_row(repos: Repositories) -> Row:
    log = repos.sequencer.status()
    behind = "never written" if log.behind is None else f"{log.behind.total_seconds():.1f} s behind"
    rescan = ", looking through all receipts" if log.is_rescanning else ""
    if log.process is None:
        return Row("log", behind, "No worker writes it: start `flask --app wsgi jobs run`.")
    is_late = log.behind is not None and log.behind > BEHIND
    advice = "Caches and webhooks get it late: see `When the log is behind` in docs/operations.md." if is_late else ""
    return Row("log", f"{behind}, written by {log.process}{rescan}", advice)


def _ledger_row(ledger: Ledger) -> Row:
    try:
        behind = ledger.behind()
    except LedgerError as error:
        return Row("ledger", "cannot be used", str(error))
    if behind:
        advice = "A backup was restored. Stop the workers, and run `flask --app wsgi ledger replay`."
        return Row("ledger", f"has entries of {counted(len(behind), 'tenant')} that the database lacks", advice)
    return Row("ledger", f"{ledger.file.count():,} entries, all in the database too")


def _backlog_rows(backlog: Backlog, late_by: timedelta) -> Iterator[Row]:
    expiry_advice = "No worker deletes them: is `flask --app wsgi jobs run` running?" if backlog.overdue else ""
    yield Row("expiry", f"{_number(backlog.overdue)} overdue by five minutes", expiry_advice)
    yield Row("erasures", f"{_number(backlog.erasures)} under way")
    yield Row("tenants", f"{_number(backlog.tenants)} being deleted")
    texts = [f"{_number(backlog.deliveries)} due", f"the oldest for {late_by.total_seconds():.0f} s"]
    webhook_advice = "No worker sends them: is one running with WEBHOOK_SECRET_KEY?" if late_by > BEHIND else ""
    if backlog.disabled_webhooks:
        texts.append(f"{_number(backlog.disabled_webhooks)} disabled by a receiver")
    yield Row("webhooks", ", ".join(texts), webhook_advice)
    yield Row("keys", f"{_number(backlog.expiring_keys)} will expire within 7 days")
    yield Row("connections", f"{_number(backlog.connections)} live")


def _number(count: int) -> str:
    return f"{count:,}" if count < MOST else f"{MOST:,} or more"
