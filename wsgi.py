"""The whole HTTP API as a WSGI application, for any WSGI server and for `flask --app wsgi`."""

import gc

import click
from flask import Flask

from chat_service.app import create_app
from chat_service.cli import commands
from chat_service.errors import UnsupportedServerError
from chat_service.settings import ConfigError
from chat_service.telemetry import logs
from config import from_env


def _create() -> Flask:
    try:
        config = from_env()
        logs.configure(config.log_format)
        return create_app(config)
    except (ConfigError, UnsupportedServerError) as error:
        command = click.get_current_context(silent=True)
        if command is None or command.info_name == "run":  # a server, which must not start
            raise
        return commands.only_help(str(error))


app = _create()
gc.freeze()  # what is loaded stays until the process ends: no garbage collection visits it, not even the last one
