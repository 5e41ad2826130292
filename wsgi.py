"""The whole HTTP API as a WSGI application, for any WSGI server and for `flask --app wsgi`."""

from chat_service.app import create_app
from chat_service.telemetry import logs
from config import from_env

_config = from_env()
logs.configure(_config.log_format)
app = create_app(_config)
