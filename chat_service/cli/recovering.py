"""`flask --app wsgi ledger …`: the copy of the log outside the database, and how a backup is brought up to it."""

import math
import threading
import time

import click
from flask.cli import AppGroup

from chat_service.api.context import repositories
from chat_service.cli.plainly import report_errors, unguarded
from chat_service.errors import ClaimLostError
from chat_service.jobs.reaper import OrphanReaper
from chat_service.jobs.runner import start
from chat_service.repository.ledger import Ledger
from chat_service.repository.replay import Replay

PROGRESS_SECONDS = 0.5
"""The time between two lines of progress."""

ledger = AppGroup("ledger", help="The copy of the log outside the database, which brings a restored backup up to date.")


@ledger.command("status")
@unguarded
@report_errors
def show_ledger() -> None:
    """Show what LEDGER_FILE has. Exits with 1 if the database lacks some of it, or if the file is damaged."""
    log_copy = _ledger()
    file, behind = log_copy.file, log_copy.behind()
    logs = file.logs()
    click.echo(f"{file.path} has {file.count():,} entries of {len(logs):,} tenants.")
    for tenant_id in behind:
        click.echo(f"The database lacks entries of tenant {tenant_id}: run `flask --app wsgi ledger replay`.")
    damaged = list(file.damaged())
    for tenant_id in damaged:
        click.echo(f"The entries of tenant {tenant_id} in the file do not fit its hash tree: the file was changed.")
    if behind or damaged:
        click.get_current_context().exit(1)


@ledger.command("export")
@unguarded
@report_errors
def export_ledger() -> None:
    """Print all entries, one line of JSON each, exactly as the hash trees of the logs contain them."""
    file = _ledger().file
    for kept_log in file.logs():
        after = 0
        while entries := file.entries(kept_log.tenant_id, after):
            for entry in entries:
                click.echo(entry.leaf)
            after = entries[-1].seq


@ledger.command("replay")
@unguarded
@report_errors
def replay_ledger() -> None:
    """Bring a database that was restored from a backup up to date with LEDGER_FILE. Stop the workers first.

    Holds are placed again. What was deleted, trashed or erased since the backup is deleted, trashed or erased again,
    and the log continues where it was. Safe to repeat.
    """
    log_copy, stop = _ledger(), threading.Event()
    done, reported_at = 0, -math.inf
    # A replay that was killed may have left a transaction open, which would block this one for a minute.
    start(OrphanReaper(repositories().orphans), stop)
    try:
        for done, total in Replay(repositories().database, log_copy).run():
            if done == total or time.monotonic() - reported_at >= PROGRESS_SECONDS:
                click.echo(f"{done:,} of {total:,} entries replayed.")
                reported_at = time.monotonic()
    except ClaimLostError:
        raise click.ClickException("A worker writes the log; stop all workers, wait 5 s, and run this again.") from None
    finally:
        stop.set()
    click.echo("The database has what the ledger has." if done else "There is nothing to replay.")


def _ledger() -> Ledger:
    log_copy = repositories().ledger
    if log_copy is None:
        raise click.ClickException("LEDGER_FILE is not set; see docs/operations.md.")
    return log_copy
