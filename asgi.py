"""The same application behind an ASGI front: what the Procfile and `make run` serve."""

from chat_service.api.context import Repositories
from chat_service.front.admission import Admission
from chat_service.front.asgi import BodyFirst
from config import Config
from wsgi import app

_config = Config.from_env()
application = BodyFirst(
    app,
    max_body_bytes=_config.max_body_bytes,
    threads=_config.threads,
    admission=Admission(_config.threads, Repositories.of(app.extensions).database.seconds_away),
)
