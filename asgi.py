"""The application of wsgi.py as an ASGI application, plus WebSockets: what the Procfile and `make run` serve."""

from chat_service.api import refusals
from chat_service.api.context import Repositories
from chat_service.realtime.endpoint import Sockets
from chat_service.realtime.log_feed import THREADS as LOG_THREADS
from chat_service.realtime.log_feed import LogFeed
from chat_service.server.admission import Admission
from chat_service.server.application import Application
from chat_service.server.threads import Threads
from config import from_env
from wsgi import app

_config = from_env()
refusals.name_service(_config.public_url)
_repositories = Repositories.of(app.extensions)
application = Application(
    app,
    Sockets(_repositories, _config.cors_origins, _config.connections_per_worker),
    LogFeed(
        _repositories.log,
        _repositories.keys,
        Threads(LOG_THREADS, "log").run,
        _config.connections_per_worker,
        _config.connections_per_tenant,
    ),
    _repositories.keys,
    Admission(_config.threads, _repositories.database.seconds_away),
    threads=_config.threads,
    max_body_bytes=_config.max_body_bytes,
    max_import_bytes=_config.max_import_bytes,
    end=_repositories.database.tracer.end,
)
