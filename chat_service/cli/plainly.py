"""What the commands share. Each reports an error as one sentence, with exit code 1."""

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
"""The key in `app.config` of a text that says which settings are wrong. It is there only if some are."""


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Report a domain error, wrong settings or an unreachable database as one sentence, with exit code 1."""

    @wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        if WRONG_SETTINGS in current_app.config:
            raise click.ClickException(current_app.config[WRONG_SETTINGS])
        try:
            repositories().database.require_transactions()
            return command(*args, **kwargs)
        except ChatServiceError as error:
            sentence = str(error) or (type(error).__doc__ or "").strip()
            raise click.ClickException(sentence) from None

    return reporting


def unguarded(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command run although the database lacks entries that its ledger has: it is there to repair that."""

    @wraps(command)
    def lifted(*args: P.args, **kwargs: P.kwargs) -> R:
        ledger = None if WRONG_SETTINGS in current_app.config else repositories().ledger
        if ledger is not None:
            ledger.disable_guard()
        return command(*args, **kwargs)

    return lifted


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, like `1 chat` and `2,000 chats`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@contextmanager
def known_tenant(tenant_id: str) -> Iterator[None]:
    """Report the LookupError that the repository raises for an unknown tenant as one sentence."""
    try:
        yield
    except LookupError:
        raise click.ClickException(f"There is no tenant {tenant_id}; `tenants list` shows all tenants.") from None
