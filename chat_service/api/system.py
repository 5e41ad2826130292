"""The service itself: whether it is alive, whether it can serve, and what its errors mean. No key needed."""

from flask import abort, current_app, redirect
from flask_smorest import Blueprint
from marshmallow import Schema, fields
from werkzeug import Response

from chat_service.api import problems
from chat_service.api.context import repositories
from chat_service.api.openapi import raises
from chat_service.api.parsing import preferred
from chat_service.errors import DatabaseUnavailableError, LedgerBehindError

blueprint = Blueprint("system", __name__, description="The service itself; no key needed")


class HealthOut(Schema):
    """The process is alive, and runs this version."""

    status = fields.String()
    version = fields.String()
    commit = fields.String(allow_none=True)


class ReadyOut(Schema):
    """Requests can be served."""

    status = fields.String()


class ProblemOut(Schema):
    """What a kind of error means."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()


@blueprint.get("/healthz")
@blueprint.response(200, HealthOut())
def healthz() -> dict[str, str | None]:
    """Report that the process is alive, and which version it runs. Nothing else is checked.

    For liveness probes: the status is 200 even if the database is unavailable.
    """
    return {"status": "ok", "version": current_app.config["API_VERSION"], "commit": current_app.config["COMMIT"]}


@blueprint.get("/readyz")
@raises(DatabaseUnavailableError, LedgerBehindError)
@blueprint.response(200, ReadyOut())
def readyz() -> dict[str, str]:
    """Report whether requests can be served: the database has a primary that answers.

    For readiness probes. If the status is 503, the log of the process says what is wrong.
    """
    if not repositories().database.is_ready():
        raise DatabaseUnavailableError
    return {"status": "ready"}


@blueprint.get("/problems/<name>")
@blueprint.response(200, ProblemOut())
def describe_problem(name: str) -> dict[str, object] | Response:
    """Describe an error: the `type` of every problem points here.

    The name is the last part of the `type`, and the `code` with dashes. A browser is redirected to `/problems`, which
    says of each error why it occurs and what to do.
    """
    by_path = {problem.path: problem for problem in (*problems.DOMAIN.values(), *problems.HTTP.values())}
    problem = by_path.get(f"/problems/{name}") or abort(404)
    if preferred("application/json", "text/html") == "text/html":
        return redirect(f"/problems#{problem.code}")
    address = problem.type(current_app.config["PUBLIC_URL"])
    return {"type": address, "title": problem.title, "status": problem.status, "detail": problem.detail}
