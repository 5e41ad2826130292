"""The settings of the application, as one frozen value. The top-level `config.py` reads them from the environment."""

from dataclasses import dataclass, field

from chat_service.models import Limits


class ConfigError(Exception):
    """The environment cannot be used; the message names each wrong variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the HTTP application. Those of gunicorn (PORT, WEB_CONCURRENCY) are in gunicorn.conf.py."""

    mongodb_uri: str
    max_body_bytes: int
    threads: int
    log_format: str
    delete_inline_limit: int = 1_000
    """The most messages that are removed together with their chat. A purge removes the messages of larger chats."""
    max_import_bytes: int = 64 * 2**20
    rate_limits: Limits = field(default_factory=dict)
    cors_origins: tuple[str, ...] = ()
    connections_per_chat: int = 1_000
    connections_per_tenant: int = 10_000
    connections_per_worker: int = 10_000
    metrics: bool = True
    traces: bool = False
    """Whether OpenTelemetry's own variables turn traces on. OpenTelemetry reads the rest of them itself."""
    chat_page: bool = False
    commit: str | None = None
    public_url: str = ""
    """The address at which callers reach the service, without a path; empty if it is not set."""
    webhook_keys: tuple[str, ...] = field(default=(), repr=False)
    """The keys for webhooks' secrets: the first one seals, and any of them opens."""
    webhook_private_networks: bool = False
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    """The first key signs checkpoints of the log. The others signed earlier ones, and still verify them."""
    ledger_file: str | None = None
    """The path of the ledger, the copy of the log outside the database."""
