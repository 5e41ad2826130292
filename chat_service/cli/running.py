"""`flask --app wsgi db|jobs|log|chats|check …`: the database, background jobs, imports and the consistency check."""

import os
import signal
import sys
import threading
from typing import BinaryIO

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext

from chat_service import __version__
from chat_service.api.context import repositories
from chat_service.api.imports import create_from_export
from chat_service.api.log import message_json
from chat_service.cli.plainly import known_tenant, report_errors
from chat_service.errors import InvalidImportError
from chat_service.jobs.erasing import Erasing
from chat_service.jobs.keeping import Keeping
from chat_service.jobs.lifting import Lifting
from chat_service.jobs.purge import PurgeWorker
from chat_service.jobs.reaper import OrphanReaper
from chat_service.jobs.retaining import Retaining
from chat_service.jobs.runner import Job, run, start
from chat_service.jobs.sequencing import Sequencing
from chat_service.jobs.turns import Expiry, RemovingTenants
from chat_service.repository.migration import migrate
from chat_service.telemetry import logs

END_SECONDS = 3.0
"""How long each job may take to release its claims when the process ends. Claims that are not released expire."""

database = AppGroup("db", help="The database's collections and indexes.")
jobs = AppGroup("jobs", help="Background work, such as the log, purges and webhooks.")
log = AppGroup("log", help="The log of what was deleted, trashed, erased and restored.")
chats = AppGroup("chats", help="Imports of chats that are too large for HTTP.")


@database.command("init")
@click.option(
    "--drop-old-indexes",
    is_flag=True,
    help="Drop what only the version before needs, once none of its processes runs and you will not roll back.",
)
@report_errors
def init(*, drop_old_indexes: bool) -> None:
    """Create the collections and indexes that are missing, and migrate the documents of earlier versions.

    Safe to repeat, also while the service runs. The release phase runs it.
    """
    repositories().database.prepare()
    click.echo("Collections and indexes are in place.")
    done = 0
    for documents in migrate(repositories().database):
        done += documents
        click.echo(f"{done:,} documents of an earlier version migrated.")
    if drop_old_indexes:
        repositories().database.drop_old_indexes()
    else:
        for index in repositories().database.old_indexes():
            click.echo(f"The index {index} is used by the version before only; see --drop-old-indexes.")


@jobs.command("run")
@click.option("--until-idle", is_flag=True, help="Exit when no purge is open, and show the progress.")
@report_errors
def run_jobs(*, until_idle: bool) -> None:
    """Run all background jobs until SIGTERM.

    They write the log, purge, delete what has expired, deliver webhooks, and release what dead processes hold. Any
    number of workers may run at once, and any may be killed at any time.
    """
    stop, started = threading.Event(), list[threading.Thread]()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    repos = repositories()
    logs.write_start("worker", __version__, current_app.config["COMMIT"])
    background_jobs: list[Job] = [
        Lifting(repos.holds),
        Expiry(repos.expired),
        Retaining(repos.retention),
        Erasing(repos.erasures),
        RemovingTenants(repos.tenant_deletions),
    ]
    sequencing = Sequencing(repositories().sequencer)
    started.append(start(OrphanReaper(repositories().orphans), stop))
    if repos.webhooks.are_on:
        # Importing aiohttp is a fifth of the start time of a web worker or a command, and none of them needs it.
        from chat_service.jobs.delivering import Delivering  # noqa: PLC0415

        private = repos.webhooks.private_networks
        background_jobs.append(
            Delivering(repos.deliveries, message_json, repos.database.tracer, private_networks=private)
        )
    if repos.ledger is not None:
        background_jobs.append(Keeping(repos.ledger))
    if until_idle:
        for job in background_jobs:
            run(job, stop, until_done=True)
    else:
        started += [start(job, stop) for job in (*background_jobs, sequencing)]
    purges = repositories().purges

    def show_progress(_: int) -> None:
        if until_idle:
            click.echo("{} purges open, {:,} messages left".format(*purges.progress()))

    run(PurgeWorker(purges, stop), stop, until_done=until_idle, tell=show_progress)
    if until_idle:
        run(sequencing, stop, until_done=True)
    stop.set()
    for thread in started:
        thread.join(END_SECONDS)
    repos.database.tracer.end()


@jobs.command("status")
@report_errors
def show_jobs() -> None:
    """Show how much is left to purge."""
    click.echo("{} purges open, {:,} messages left".format(*repositories().purges.progress()))


@log.command("status")
@report_errors
def show_log() -> None:
    """Show how far the log is behind what was committed, and which process writes it. Exits with 1 if none does."""
    status = repositories().sequencer.status()
    if status.up_to is None or status.behind is None:
        click.echo("The log was never written; `flask --app wsgi jobs run` writes it.")
    else:
        rescan = " It is looking through all receipts." if status.is_rescanning else ""
        click.echo(f"Up to {status.up_to:%Y-%m-%d %H:%M:%S} UTC, {status.behind.total_seconds():.1f} s ago.{rescan}")
    click.echo(f"Written by {status.process}." if status.process else "No worker writes it: is one running?")
    if status.process is None:
        click.get_current_context().exit(1)


@chats.command("import")
@click.argument("tenant_id")
@click.argument("file", type=click.File("rb"))
@report_errors
def import_chat(tenant_id: str, file: BinaryIO) -> None:
    """Create a chat of TENANT_ID, whole or not at all, from the ndjson export FILE of any size; print its id."""
    with known_tenant(tenant_id):
        repositories().tenants.get(tenant_id)
    size = os.fstat(file.fileno()).st_size
    with click.progressbar(length=size, label="Importing", file=sys.stderr) as bar:
        try:
            chat = create_from_export(tenant_id, file, lambda line: bar.update(len(line)))
        except InvalidImportError as error:
            raise click.ClickException(f"Nothing was created: this is not a complete export. {error.reason}") from None
    click.echo(chat.id)


@click.command("check")
@click.option("--repair", is_flag=True, help="Repair what needs no judgement.")
@with_appcontext
@report_errors
def check(*, repair: bool) -> None:
    """Look for messages, leases, counts and receipts that do not agree. Exits with 1 if there are any."""
    shortcomings = repositories().database.shortcomings()
    for sentence in shortcomings:
        click.echo(sentence)
    for tenant_id, count in repositories().retention.overdue().items():
        shortcomings.append(f"retention_overdue  tenant {tenant_id}  {count} chats were due two days ago.")
        click.echo(shortcomings[-1])
    finding_count = len(shortcomings)
    for finding in repositories().checks.run(repair=repair):
        finding_count += 1
        click.echo(f"{finding.kind}  tenant {finding.tenant_id}  chat {finding.chat_id}  {finding.detail}")
    window = repositories().database.oplog_window()
    reach = "cannot be read by this user" if window is None else f"reaches back {window.total_seconds() / 3600:,.1f} h"
    click.echo(f"The oplog {reach}. Until it has rolled over it contains what was deleted; backups contain it too.")
    click.echo(f"{finding_count} findings{', repaired where that is possible' if finding_count and repair else ''}.")
    if finding_count:
        click.get_current_context().exit(1)
