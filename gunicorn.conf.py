"""gunicorn's settings, each with its reason: `gunicorn -c gunicorn.conf.py asgi:application`."""

import os
from functools import partial

from chat_service.server import hooks, shared_files
from chat_service.server.logger import gunicorn_logger
from config import from_env

# A dyno (Heroku) is reached from outside, at PORT. Elsewhere this is a developer's machine: only it can connect.
bind = f"0.0.0.0:{os.environ['PORT']}" if "DYNO" in os.environ else f"127.0.0.1:{os.environ.get('PORT', '8000')}"
bind = os.environ.get("BIND", bind)

workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "chat_service.server.worker.Worker"
# For heartbeats, which must not wait for a slow disk.
worker_tmp_dir = shared_files.folder_with_room()

# No response takes longer than 25 s, so after this every request in flight has ended. Platforms wait for 30 s.
graceful_timeout = int(os.environ.get("SHUTDOWN_SECONDS", "25"))
timeout = 30
# Longer than load balancers keep an idle connection (60 s to 600 s): if we closed it first, a request on its way would
# be lost. An idle connection costs 16 KiB.
keepalive = int(os.environ.get("KEEP_ALIVE", "620"))

# Not less than load balancers let through (nginx: 8 KiB a field): a front end on the same domain sends its cookies.
limit_request_fields = int(os.environ.get("MAX_HEADER_FIELDS", "100"))
limit_request_field_size = int(os.environ.get("MAX_HEADER_BYTES", str(16 * 2**10)))

# Every worker gets its own name, which its leases carry, when it loads the application.
preload_app = False

# gunicorn 27 would open ~/.gunicorn/gunicorn.ctl, which nothing here uses.
control_socket_disable = True
# The application logs one line a request. gunicorn's own lines have the same format.
accesslog = None
logger_class = gunicorn_logger(os.environ.get("LOG_FORMAT", "json"))
errorlog = "-"
loglevel = "warning"

on_starting = partial(hooks.on_starting, from_env)
when_ready = partial(hooks.when_ready, from_env)
on_reload = hooks.on_reload
pre_fork = hooks.pre_fork
post_fork = partial(hooks.post_fork, from_env)
post_worker_init = hooks.post_worker_init
worker_exit = hooks.worker_exit
child_exit = hooks.child_exit
