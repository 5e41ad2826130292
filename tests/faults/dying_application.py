"""An application for gunicorn. A worker dies while it loads the application, in the way that `DYING` names."""

import errno
import os
import signal

from chat_service.settings import ConfigError

_HOW = os.environ["DYING"]

if _HOW == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif _HOW == "disk full":
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
elif _HOW == "wrong setting":
    raise ConfigError("Settings are missing or wrong: DYING.")
