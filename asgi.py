"""The same application behind an ASGI front: what the Procfile and `make run` serve."""

from chat_service.api.context import Repositories
from chat_service.config import Config
from chat_service.front.admission import Admission
from chat_service.front.asgi import BodyFirst
from chat_service.realtime.endpoint import Sockets
from wsgi import app

_config = Config.from_env()
_repositories = Repositories.of(app.extensions)
application = BodyFirst(
    app,
    Sockets(_repositories, _config.cors_origins, _config.connections_per_worker),
    max_body_bytes=_config.max_body_bytes,
    threads=_config.threads,
    admission=Admission(_config.threads, _repositories.database.seconds_away),
)
