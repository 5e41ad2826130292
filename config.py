"""Environment variables -> one frozen Config. Every wrong variable is reported at once, with what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from environs import Env, EnvValidationError, validate


class ConfigError(Exception):
    """The environment cannot be used; the text names each wrong variable."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of the HTTP application. What gunicorn needs (PORT, WEB_CONCURRENCY) is in gunicorn.conf.py."""

    mongodb_uri: str
    max_body_bytes: int
    threads: int
    log_format: str
    delete_inline_limit: int = 1_000

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment.

        Raises:
            ConfigError: one or more variables are missing or wrong.
        """
        env = Env(eager=False)
        config = cls(
            mongodb_uri=env.str("MONGODB_URI", validate=validate.Length(min=1)),
            max_body_bytes=env.int("MAX_BODY_BYTES", 4 * 2**20, validate=validate.Range(min=2**10, max=64 * 2**20)),
            threads=env.int("THREADS", 8, validate=validate.Range(min=1, max=256)),
            delete_inline_limit=env.int("DELETE_INLINE_LIMIT", 1_000, validate=validate.Range(min=0, max=10_000)),
            log_format=env.str("LOG_FORMAT", "json", validate=validate.OneOf(["json", "console"])),
        )
        try:
            env.seal()
        except EnvValidationError as error:
            reasons = dict(error.error_messages) if isinstance(error.error_messages, Mapping) else {}
            lines = [f"{name}: {' '.join(texts)}" for name, texts in reasons.items()]
            hint = "For a local try-out use `make run`; for a server see docs/operations.md."
            raise ConfigError("\n".join(["The environment is not usable:", *lines, hint])) from None
        return config
