"""How every command says what went wrong: in a sentence, with exit code 1."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import click
from flask import current_app

from chat_service.api.context import repositories
from chat_service.errors import ChatServiceError

P = ParamSpec("P")
R = TypeVar("R")

WRONG_SETTINGS = "WRONG_SETTINGS"
"""The application's setting that says that its settings are wrong, and how."""


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a domain error, wrong settings, and a database that is away, into a sentence and exit code 1."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        if WRONG_SETTINGS in current_app.config:
            raise click.ClickException(current_app.config[WRONG_SETTINGS])
        try:
            repositories().database.require_transactions()
            return command(*args, **kwargs)
        except ChatServiceError as error:
            sentence = str(error) or (type(error).__doc__ or "").strip()
            raise click.ClickException(sentence) from None

    return told


def unguarded(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command use a database that lacks what its ledger has: it is there to mend that."""

    @wraps(command)
    def lifted(*args: P.args, **kwargs: P.kwargs) -> R:
        ledger = None if WRONG_SETTINGS in current_app.config else repositories().ledger
        if ledger is not None:
            ledger.lift()
        return command(*args, **kwargs)

    return lifted


def counted(number: int, noun: str) -> str:
    """Return how many there are of something, like `1 chat` and `2,000 chats`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def known_tenant(tenant_id: str) -> Iterator[None]:
    """Turn what the repository raises for a tenant that is not there into a sentence."""
    try:
        yield
    except LookupError:
        raise click.ClickException(f"There is no tenant {tenant_id}; `tenants list` shows them.") from None
