"""Reads environment variables into one frozen Settings. All wrong variables are reported at once, with what to do."""

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from environs import Env, EnvValidationError, validate
from marshmallow import ValidationError

from chat_service.models import EVERYDAY_SCOPES, Limits, parse_limit
from chat_service.proof.notes import MalformedError, SigningKey
from chat_service.repository.sealing import is_key
from chat_service.settings import ConfigError, Settings

# An origin as a browser sends it: no path, no trailing slash, lower case. `*`, `null` and patterns are refused.
_ORIGIN = re.compile(r"https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")

_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+", re.ASCII)

_COMMIT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COMMIT_VARIABLES = ("SOURCE_VERSION", "HEROKU_BUILD_COMMIT", "HEROKU_SLUG_COMMIT")

_COLLECTOR_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_at_least_one = validate.Range(min=1, max=1_000_000)


def from_env() -> Settings:
    """Return the settings that the environment gives.

    Raises:
        ConfigError: one or more variables are missing or wrong.
    """
    env = Env(eager=False)
    settings = Settings(
        mongodb_uri=env.str("MONGODB_URI", validate=validate.Length(min=1)),
        max_body_bytes=env.int("MAX_BODY_BYTES", 4 * 2**20, validate=validate.Range(min=2**10, max=64 * 2**20)),
        max_import_bytes=env.int("MAX_IMPORT_BYTES", 64 * 2**20, validate=validate.Range(min=2**10, max=2**30)),
        threads=env.int("THREADS", 8, validate=validate.Range(min=1, max=256)),
        delete_inline_limit=env.int("DELETE_INLINE_LIMIT", 1_000, validate=validate.Range(min=0, max=10_000)),
        rate_limits=_rate_limits(env),
        log_format=env.str("LOG_FORMAT", "json", validate=validate.OneOf(["json", "console"])),
        cors_origins=tuple(env.list("CORS_ORIGINS", [], validate=_check_origins) or ()),
        connections_per_chat=env.int("CONNECTIONS_PER_CHAT", 1_000, validate=_at_least_one),
        connections_per_tenant=env.int("CONNECTIONS_PER_TENANT", 10_000, validate=_at_least_one),
        connections_per_worker=env.int("CONNECTIONS_PER_WORKER", 10_000, validate=_at_least_one),
        metrics=env.str("METRICS", "on", validate=validate.OneOf(["on", "off"])) == "on",
        chat_page=env.str("CHAT_PAGE", "off", validate=validate.OneOf(["on", "off"])) == "on",
        traces=_wants_traces(),
        commit=_commit(),
        webhook_keys=tuple(env.list("WEBHOOK_SECRET_KEY", [], validate=_check_keys) or ()),
        webhook_private_networks=env.str("WEBHOOK_PRIVATE_NETWORKS", "off", validate=validate.OneOf(["on", "off"]))
        == "on",
        signing_keys=tuple(env.list("SIGNING_KEY", [], validate=_check_signing_keys) or ()),
        public_url=env.str("PUBLIC_URL", "", validate=_check_public_url),
        ledger_file=env.str("LEDGER_FILE", None, validate=_check_ledger_file),
    )
    try:
        env.seal()
    except EnvValidationError as error:
        reasons = dict(error.error_messages) if isinstance(error.error_messages, Mapping) else {}
        lines = [f"{name}: {' '.join(texts)}" for name, texts in reasons.items()]
        hint = "To try the service on this machine use `make run`; for a server see docs/operations.md."
        raise ConfigError("\n".join(["Settings are missing or wrong:", *lines, hint])) from None
    return settings


def _rate_limits(env: Env) -> Limits:
    texts = {scope: env.str(f"RATE_LIMIT_{scope.name}", "off", validate=_check_rate_limit) for scope in EVERYDAY_SCOPES}
    return {scope: parse_limit(text) for scope, text in texts.items() if text}  # a wrong one is None


def _check_rate_limit(text: str) -> None:
    try:
        parse_limit(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


def _check_origins(origins: list[str]) -> None:
    wrong = [origin for origin in origins if not _ORIGIN.fullmatch(origin)]
    if wrong:
        raise ValidationError(f"Not an exact origin: {', '.join(wrong)}. Write it like https://app.example.com.")


def _check_public_url(url: str) -> None:
    if url and not _PUBLIC_URL.fullmatch(url):
        raise ValidationError("Must be an address without a path, like https://chats.example.com.")


def _check_keys(keys: list[str]) -> None:
    if not all(map(is_key, keys)):
        raise ValidationError("Must be keys that `flask --app wsgi webhooks key` makes, separated by commas.")


def _check_signing_keys(keys: list[str]) -> None:
    try:
        for key in keys:
            SigningKey(key)
    except MalformedError:
        raise ValidationError("Must be keys that `flask --app wsgi keys signing` makes, separated by commas.") from None


def _check_ledger_file(path: str) -> None:
    if not Path(path).resolve().parent.is_dir():
        raise ValidationError(f"There is no folder {Path(path).resolve().parent}; create it, or name another file.")


def _wants_traces() -> bool:
    """Return whether OpenTelemetry's variables turn traces on. OpenTelemetry reads the rest of them itself."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporter := os.environ.get("OTEL_TRACES_EXPORTER", "").strip():
        return "otlp" in [name.strip() for name in exporter.split(",")]
    return any(os.environ.get(name) for name in _COLLECTOR_VARIABLES)


@cache
def _commit() -> str | None:
    """Return the commit that runs: from the platform's variables, or from git in a clone, or None."""
    commit = next((os.environ[name] for name in _COMMIT_VARIABLES if os.environ.get(name)), None)
    commit = commit or _commit_of_clone(Path(__file__).parent)
    return commit if commit and _COMMIT.fullmatch(commit) else None


def _commit_of_clone(folder: Path) -> str | None:
    if not (folder / ".git").exists():  # else git would find a repository around this folder
        return None
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)  # noqa: S603 - our own list
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
