"""The environment: all missing and wrong variables are reported at once, with what to do."""

import sys

import pytest

from chat_service import app
from chat_service.models import EVERYDAY_SCOPES, RateLimit, Scope
from chat_service.repository.sealing import new_key
from chat_service.settings import ConfigError, Settings
from config import from_env

URI = "mongodb://127.0.0.1/?replicaSet=rs0"


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name in (
        "MAX_BODY_BYTES",
        "MAX_IMPORT_BYTES",
        "THREADS",
        "DELETE_INLINE_LIMIT",
        "LOG_FORMAT",
        "CORS_ORIGINS",
        "METRICS",
    ):
        monkeypatch.delenv(name, raising=False)
    for scope in EVERYDAY_SCOPES:
        monkeypatch.delenv(f"RATE_LIMIT_{scope.name}", raising=False)
    for name in ("CHAT_PAGE", "WEBHOOK_SECRET_KEY", "WEBHOOK_PRIVATE_NETWORKS", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MONGODB_URI", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return from_env()


def test_only_the_database_has_to_be_told(monkeypatch) -> None:
    config = read(monkeypatch, MONGODB_URI=URI)
    assert (config.mongodb_uri, config.max_body_bytes, config.threads) == (URI, 4 * 2**20, 8)
    assert (config.delete_inline_limit, config.log_format, config.metrics) == (1_000, "json", True)
    assert config.cors_origins == ()
    assert not any(config.rate_limits.values())
    assert config.chat_page is False
    assert (config.webhook_keys, config.webhook_private_networks) == ((), False)


@pytest.mark.parametrize(
    ("variables", "traces"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_traces_are_on_where_there_is_somewhere_to_send_them(monkeypatch, variables, traces) -> None:
    """OpenTelemetry's own variables turn them on."""
    assert read(monkeypatch, MONGODB_URI=URI, **variables).traces is traces


@pytest.mark.parametrize(
    "spoil",
    [
        lambda patch: patch.setitem(sys.modules, "opentelemetry", None),
        lambda patch: patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "-1"),
    ],
    ids=["without the packages", "a wrong variable"],
)
def test_without_traces_the_service_runs(monkeypatch, caplog, spoil) -> None:
    """Traces that are on but cannot be set up are logged, and nothing else happens."""
    monkeypatch.delitem(sys.modules, "chat_service.telemetry.tracing", raising=False)
    spoil(monkeypatch)
    assert app._tracer(Settings(URI, 2**20, threads=8, log_format="json", traces=True)) is None
    assert "Traces are off: " in caplog.text


def test_keys_of_webhooks_are_keys(monkeypatch) -> None:
    """They are in no text that could get into a log."""
    keys = [new_key(), new_key()]
    config = read(monkeypatch, MONGODB_URI=URI, WEBHOOK_SECRET_KEY=",".join(keys), WEBHOOK_PRIVATE_NETWORKS="on")
    assert (config.webhook_keys, config.webhook_private_networks) == (tuple(keys), True)
    assert keys[0] not in repr(config)
    with pytest.raises(ConfigError, match="WEBHOOK_SECRET_KEY") as error:
        read(monkeypatch, MONGODB_URI=URI, WEBHOOK_SECRET_KEY="canary")  # noqa: S106 - no password
    assert "canary" not in str(error.value)


def test_everything_can_be_told(monkeypatch) -> None:
    config = read(
        monkeypatch,
        MONGODB_URI=URI,
        MAX_BODY_BYTES="2048",
        MAX_IMPORT_BYTES="4096",
        THREADS="3",
        DELETE_INLINE_LIMIT="0",
        LOG_FORMAT="console",
        METRICS="off",
        CHAT_PAGE="on",
        CORS_ORIGINS="https://a.example,http://localhost:3000",
        RATE_LIMIT_READ="off",
        RATE_LIMIT_WRITE="100:200",
        RATE_LIMIT_DELETE="0.5:10",
    )
    assert (config.max_body_bytes, config.threads, config.delete_inline_limit) == (2048, 3, 0)
    assert config.max_import_bytes == 4096
    assert (config.log_format, config.metrics, config.chat_page) == ("console", False, True)
    assert config.cors_origins == ("https://a.example", "http://localhost:3000")
    limits = {Scope.READ: None, Scope.WRITE: RateLimit(100, 200), Scope.DELETE: RateLimit(0.5, 10)}
    assert config.rate_limits == limits


def test_every_wrong_variable_is_named_at_once(monkeypatch) -> None:
    with pytest.raises(ConfigError) as error:
        read(
            monkeypatch,
            MAX_BODY_BYTES="a lot",
            THREADS="0",
            DELETE_INLINE_LIMIT="-1",
            LOG_FORMAT="xml",
            METRICS="maybe",
            CHAT_PAGE="yes",
            CORS_ORIGINS="https://*.example",
            RATE_LIMIT_READ="lots",
            RATE_LIMIT_WRITE="0:5",
            RATE_LIMIT_DELETE="100",
        )
    for name in ("MONGODB_URI", "MAX_BODY_BYTES", "THREADS", "DELETE_INLINE_LIMIT", "LOG_FORMAT", "METRICS", "CORS"):
        assert name in str(error.value)
    for scope in EVERYDAY_SCOPES:
        assert f"RATE_LIMIT_{scope.name}: Not a limit. Write `off`, or requests per second and burst" in str(
            error.value
        )
    assert "CHAT_PAGE" in str(error.value)
    assert "make run" in str(error.value)


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "https://a.example/", "https://a.example/path", "a.example", "https://A.example", "file://x"],
)
def test_an_origin_is_exact(monkeypatch, origin: str) -> None:
    """A value that no browser sends as Origin would silently let nobody in; a wildcard would let everybody in."""
    with pytest.raises(ConfigError, match="CORS_ORIGINS"):
        read(monkeypatch, MONGODB_URI=URI, CORS_ORIGINS=origin)
