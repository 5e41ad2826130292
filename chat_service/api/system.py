"""The service itself: is it alive, can it serve, what do its errors mean. No key needed."""

from flask import Blueprint, abort, current_app

from chat_service.api import problems
from chat_service.api.context import repositories
from chat_service.errors import DatabaseUnavailableError

blueprint = Blueprint("system", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, str | None]:
    """Tell that the process lives, and which code it runs; asks nobody."""
    return {"status": "ok", "version": current_app.config["API_VERSION"], "commit": current_app.config["COMMIT"]}


@blueprint.get("/readyz")
def readyz() -> dict[str, str]:
    """Tell whether requests can be served: the database has a primary that answers."""
    if not repositories().database.is_ready():
        raise DatabaseUnavailableError
    return {"status": "ready"}


@blueprint.get("/problems/<name>")
def describe_problem(name: str) -> dict[str, object]:
    """Describe an error: what the `type` of every problem points to."""
    known = {problem.type: problem for problem in (*problems.DOMAIN.values(), *problems.HTTP.values())}
    problem = known.get(f"/problems/{name}") or abort(404)
    return {"type": problem.type, "title": problem.title, "status": problem.status, "detail": problem.detail}
