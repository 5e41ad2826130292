"""gunicorn's own log lines, in the format of all others."""

from typing import Any

from gunicorn import glogging

from chat_service.telemetry import logs


def gunicorn_logger(log_format: str) -> type:
    """Return the logger class to name in gunicorn.conf.py."""

    class Logger(glogging.Logger):  # type: ignore[misc]  # gunicorn ships no types
        """gunicorn sets it up in the master before anything is written, and again at a reload. Workers inherit it."""

        def setup(self, cfg: Any) -> None:
            """Format gunicorn's lines, and those of all other libraries, like ours."""
            super().setup(cfg)
            logs.configure(log_format)
            for handler in self.error_log.handlers:
                handler.setFormatter(logs.formatter(log_format))

    return Logger
