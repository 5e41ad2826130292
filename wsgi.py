"""The whole HTTP API as a WSGI application, for any WSGI server and for `flask --app wsgi`."""

from chat_service.app import create_app
from config import Config

app = create_app(Config.from_env())
