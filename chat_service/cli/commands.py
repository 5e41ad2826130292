"""All commands: `flask --app wsgi …`; `--help` lists them."""

from flask import Flask

from chat_service.cli import administering, governing, leaving, overview, recovering, running
from chat_service.cli.plainly import WRONG_SETTINGS


def install(app: Flask) -> None:
    """Add the commands to the application."""
    for command in leaving.COMMANDS:
        administering.tenants.add_command(command)
    for group in (
        running.database,
        administering.tenants,
        administering.keys,
        governing.holds,
        governing.retention,
        governing.erasures,
        governing.webhooks,
        running.chats,
        running.jobs,
        running.log,
        recovering.ledger,
        running.check,
        overview.status,
    ):
        app.cli.add_command(group)


def only_help(wrong_settings: str) -> Flask:
    """Return an application whose commands show their help; run, they report the wrong settings and exit with 1."""
    app = Flask("chat_service", static_folder=None)
    app.config[WRONG_SETTINGS] = wrong_settings
    install(app)
    return app
