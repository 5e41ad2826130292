"""The same application behind an ASGI front: what the Procfile and `make run` serve."""

from chat_service.api.context import repositories
from chat_service.front.asgi import BodyFirst
from chat_service.realtime.asgi import Sockets
from config import Config
from wsgi import app

_config = Config.from_env()
with app.app_context():
    _sockets = Sockets(repositories(), _config.cors_origins, _config.connections_per_worker)
application = BodyFirst(app, _sockets, max_body_bytes=_config.max_body_bytes, threads=_config.threads)
