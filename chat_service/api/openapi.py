"""The OpenAPI 3.1 document: flask-smorest's, completed from the route table and the table of errors.

Views declare with `raises` what only they know. What follows from the shape of an operation (it needs a key, it has a
chat's id in its path, it takes a body) is added here for all, so that none can forget it.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flask import Flask
from werkzeug.routing import Rule

from chat_service import errors
from chat_service.api import problems
from chat_service.api.auth import API_PREFIX
from chat_service.api.specification import (
    COMPONENTS,
    IDEMPOTENCY_KEY_FIELD,
    IF_MATCH_FIELD,
    IF_NONE_MATCH_FIELD,
    INFO,
    LAST_EVENT_ID_FIELD,
    PATH_PARAMETERS,
    RATE_LIMIT_HEADERS,
    SERVERS,
)

_Error = type[errors.ChatServiceError] | int

_OF_ALL: list[_Error] = [400, 404, 405, 408, 413, 414, 431, 500, 501]
_OF_THE_API: list[_Error] = [
    errors.InvalidApiKeyError,
    errors.InsufficientScopeError,
    errors.RateLimitedError,
    errors.TooMuchUnreadError,
    errors.ValidationFailedError,  # an unknown query parameter is refused everywhere
    errors.DatabaseUnavailableError,
    406,
]

HELD: tuple[_Error, _Error] = (errors.LegalHoldError, errors.NotDeletableError)
"""What a hold answers to who governs, and to others."""

_MISSING: dict[str, _Error] = {
    "seq": errors.MessageNotFoundError,
    "hold_id": errors.HoldNotFoundError,
    "erasure_id": errors.ErasureNotFoundError,
    "webhook_id": errors.WebhookNotFoundError,
}
"""What is answered where there is nothing of the name that a part of the path gives."""

F = TypeVar("F", bound=Callable[..., Any])


def raises(*known: _Error, headers: str = "") -> Callable[[F], F]:
    """Declare the errors of a view beyond those of its shape; `headers` names the request headers it honours."""

    def decorate(view: F) -> F:
        view.raised, view.honours = known, headers.split()  # type: ignore[attr-defined]
        return view

    return decorate


def complete(app: Flask, document: dict[str, Any]) -> dict[str, Any]:
    """Return flask-smorest's document with everything that it leaves out."""
    # A WebSocket: a client that was generated from this could do nothing with it.
    del document["paths"][f"{API_PREFIX}v1/chats/{{chat_id}}/ws"]
    document["info"] = {**document["info"], **INFO}
    document["servers"] = SERVERS
    document["security"] = [{"key": []}]
    components = document["components"]
    components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
    components["schemas"] = {**_closed(components["schemas"]), **COMPONENTS}
    components["responses"] = {}
    components["headers"] = RATE_LIMIT_HEADERS
    for rule, method, operation in _operations(app, document):
        view: Any = app.view_functions[rule.endpoint]
        operation["operationId"] = rule.endpoint.rpartition(".")[2]
        operation["parameters"] = [*_parameters(operation), *_headers(view)]
        _add_headers(operation["responses"])
        if rule.rule.startswith(API_PREFIX):
            scope = view.required_scope
            needs = f"Needs the scope `{scope.value}`." if scope else "Any key may ask."
            operation["description"] = f"{operation['description']}\n\n{needs}"
            for response in operation["responses"].values():
                response["headers"].update(_refer_to_limits())
        else:
            operation["security"] = []
        if "If-None-Match" in getattr(view, "honours", ()):
            operation["responses"]["304"] = {"description": "The chat is still as you saw it."}
        _add_errors(operation["responses"], components["responses"], _errors(rule, method, operation, view))
    for path, item in document["paths"].items():
        item.pop("parameters", None)
        names = [name for name in PATH_PARAMETERS if f"{{{name}}}" in path]
        if names:
            item["parameters"] = [
                {"in": "path", "name": name, "required": True, **PATH_PARAMETERS[name]} for name in names
            ]
    _describe_alternatives(document)
    return document


def query_fields(app: Flask, document: dict[str, Any]) -> dict[str, set[str]]:
    """Return the names of the query parameters that each endpoint of the document has."""
    return {
        rule.endpoint: {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
        for rule, _, operation in _operations(app, document)
    }


def _operations(app: Flask, document: dict[str, Any]) -> Iterator[tuple[Rule, str, dict[str, Any]]]:
    for rule in app.url_map.iter_rules():
        item = document["paths"].get(rule.rule.replace("<", "{").replace(">", "}"), {})
        for method in rule.methods or ():
            if method.lower() in item:
                yield rule, method, item[method.lower()]


def _closed(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas such that nothing undeclared is in an object, and everything declared is in an answer."""
    known = {name: schema for name, schema in schemas.items() if name not in {"Error", "PaginationMetadata"}}
    for name, schema in known.items():
        schema["additionalProperties"] = False
        properties = schema["properties"]
        for field, described in properties.items():
            if field == "metadata":
                properties[field] = {"$ref": "#/components/schemas/Metadata"}
            else:
                _tell_default_in_words(described)
        if not name.endswith(("In", "Patch")):
            schema["required"] = [field for field, one in properties.items() if not one.pop("x-if-there", False)]
        elif name.endswith("Patch"):
            schema["minProperties"] = 1
    return known


def _tell_default_in_words(described: dict[str, Any]) -> None:
    """Say in the description what a field of a body is when it is left out: generators take a default for required."""
    default = described.pop("default", None)
    if default is not None:
        described["description"] = f"{described.get('description', '')} `{default}` if it is left out.".strip()


def _parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the query parameters; one that is left out is not one that is null."""
    found: list[dict[str, Any]] = operation.get("parameters", [])
    for parameter in found:
        schema = parameter["schema"]
        if isinstance(schema.get("type"), list):
            schema["type"] = next(kind for kind in schema["type"] if kind != "null")
        if "enum" in schema:
            schema["enum"] = [value for value in schema["enum"] if value is not None]
        if schema.get("default", 0) is None:
            del schema["default"]
    return found


def _headers(view: Any) -> list[dict[str, Any]]:
    honours = getattr(view, "honours", ())
    return [
        header
        for header in (IF_MATCH_FIELD, IF_NONE_MATCH_FIELD, IDEMPOTENCY_KEY_FIELD, LAST_EVENT_ID_FIELD)
        if header["name"] in honours
    ]


def _errors(rule: Rule, method: str, operation: dict[str, Any], view: Any) -> list[problems.Problem]:
    found: list[_Error] = [*_OF_ALL, *getattr(view, "raised", ())]
    if rule.rule.startswith(API_PREFIX):
        found += _OF_THE_API
    honours = getattr(view, "honours", ())
    if "chat_id" in rule.arguments:
        found.append(errors.InvalidChatIdError)
        if not rule.rule.startswith(f"{API_PREFIX}v1/deletions"):
            found.append(errors.ChatNotFoundError)
    found += [missing for part, missing in _MISSING.items() if part in rule.arguments]
    if any(parameter["name"] == "cursor" for parameter in operation["parameters"]):
        found.append(errors.InvalidCursorError)
    if "requestBody" in operation:
        found += [415] if rule.endpoint.endswith("import_chat") else [415, errors.InvalidJsonError]
    if method != "GET":
        found.append(errors.OutcomeUnknownError)
    if "If-Match" in honours:
        found.append(errors.PreconditionFailedError)
    if "Idempotency-Key" in honours:
        found += [errors.InvalidIdempotencyKeyError, errors.IdempotencyKeyReusedError]
    return [problems.HTTP[one] if isinstance(one, int) else problems.DOMAIN[one] for one in found]


def _add_errors(responses: dict[str, Any], shared: dict[str, Any], known: list[problems.Problem]) -> None:
    """Add the errors to an operation's responses; those that several operations have are described once."""
    responses.pop("422", None)  # flask-smorest's own
    for status in sorted({problem.status for problem in known}):
        alike = {problem.code: problem for problem in known if problem.status == status}
        name = ".".join([str(status), *sorted(alike)])
        shared[name] = _error_response(status, alike)
        responses[str(status)] = {"$ref": f"#/components/responses/{name}"}


def _error_response(status: int, alike: dict[str, problems.Problem]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(f"`{problem.code}`: {problem.detail}" for problem in alike.values()),
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {code: {"value": _example(problem)} for code, problem in alike.items()},
            }
        },
    }
    _add_headers({str(status): response})
    return response


def _example(problem: problems.Problem) -> dict[str, Any]:
    return {
        "type": problem.path,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "success": False,
        "code": problem.code,
        "request_id": "2f1c7a5e9d3b4c6f8a0e1d2c3b4a5f60",
    }


def _add_headers(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        headers: dict[str, Any] = {"X-Request-ID": {"required": True, "schema": {"type": "string"}}}
        if status in {"409", "429", "503"}:
            required = status != "409"
            headers["Retry-After"] = {"required": required, "schema": {"type": "string", "pattern": "^[0-9]+$"}}
        if status == "429":
            headers.update(_refer_to_limits())
        if status == "405":
            headers["Allow"] = {"required": True, "schema": {"type": "string"}}
        response.setdefault("headers", {}).update(headers)


def _refer_to_limits() -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in RATE_LIMIT_HEADERS}


def _describe_alternatives(document: dict[str, Any]) -> None:
    """Describe the body that is more than one schema can say."""
    posting = document["paths"][f"{API_PREFIX}v1/chats/{{chat_id}}/messages"]["post"]
    posting["requestBody"]["content"]["application/json"]["schema"] = {
        "oneOf": [{"$ref": "#/components/schemas/MessageIn"}, {"$ref": "#/components/schemas/MessagesIn"}]
    }
