"""What the application can be told, as one frozen value; `config.py` at the top reads it from the environment."""

from dataclasses import dataclass, field

from chat_service.models import Limits


class ConfigError(Exception):
    """The environment cannot be used; the text names each wrong variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the HTTP application. What gunicorn needs (PORT, WEB_CONCURRENCY) is in gunicorn.conf.py."""

    mongodb_uri: str
    max_body_bytes: int
    threads: int
    log_format: str
    delete_inline_limit: int = 1_000
    """Up to how many messages are removed with their chat; those of larger ones are left to a purge."""
    max_import_bytes: int = 64 * 2**20
    rate_limits: Limits = field(default_factory=dict)
    cors_origins: tuple[str, ...] = ()
    connections_per_chat: int = 1_000
    connections_per_tenant: int = 10_000
    connections_per_worker: int = 10_000
    metrics: bool = True
    traces: bool = False
    """Whether OpenTelemetry's own variables ask for traces; it reads them itself."""
    chat_page: bool = False
    commit: str | None = None
    public_url: str = ""
    """Where callers reach the service, without a path; empty if it does not know."""
    webhook_keys: tuple[str, ...] = field(default=(), repr=False)
    """With which webhooks' secrets are sealed: the first one, and opened with any."""
    webhook_private_networks: bool = False
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    """With the first one checkpoints of the log are signed; the others have signed before, and still verify."""
    ledger_file: str | None = None
    """Where the log is kept outside the database."""
