"""The OpenAPI 3.1 document: flask-smorest's, completed from the route table and the table of errors.

Views declare with `raises` what only they know. What follows from the shape of an operation (it needs a key, it has a
chat's id in its path, it takes a body) is added here for all operations, so that no view can forget it.
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

_ERRORS_OF_ALL: list[_Error] = [400, 404, 405, 408, 413, 414, 431, 500, 501]
_ERRORS_OF_THE_API: list[_Error] = [
    errors.InvalidApiKeyError,
    errors.InsufficientScopeError,
    errors.RateLimitedError,
    errors.TooMuchUnreadError,
    errors.ValidationFailedError,  # an unknown query parameter is refused everywhere
    errors.DatabaseUnavailableError,
    406,
]

HELD: tuple[_Error, _Error] = (errors.LegalHoldError, errors.NotDeletableError)
"""The errors of what a hold forbids: for keys that govern, and for others."""

_NOT_FOUND: dict[str, _Error] = {
    "seq": errors.MessageNotFoundError,
    "hold_id": errors.HoldNotFoundError,
    "erasure_id": errors.ErasureNotFoundError,
    "webhook_id": errors.WebhookNotFoundError,
}
"""A part of the path -> the error if nothing has this id."""

F = TypeVar("F", bound=Callable[..., Any])


def raises(*declared: _Error, headers: str = "") -> Callable[[F], F]:
    """Declare the errors of a view that its shape does not imply; `headers` names the request headers it honours."""

    def decorate(view: F) -> F:
        view.raised, view.honours = declared, headers.split()  # type: ignore[attr-defined]
        return view

    return decorate


def complete(app: Flask, document: dict[str, Any]) -> dict[str, Any]:
    """Return flask-smorest's document, completed with everything that it leaves out."""
    # A WebSocket: a client that is generated from the document could do nothing with it.
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
            needs = f"Needs the scope `{scope.value}`." if scope else "Every key may use it."
            operation["description"] = f"{operation['description']}\n\n{needs}"
            for response in operation["responses"].values():
                response["headers"].update(_refer_to_limits())
        else:
            operation["security"] = []
        if "If-None-Match" in getattr(view, "honours", ()):
            operation["responses"]["304"] = {"description": "The chat has not changed."}
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
    """Return our schemas: an object has no undeclared field, and every declared field is required in a response."""
    ours = {name: schema for name, schema in schemas.items() if name not in {"Error", "PaginationMetadata"}}
    for name, schema in ours.items():
        schema["additionalProperties"] = False
        properties = schema["properties"]
        for field, field_schema in properties.items():
            if field == "metadata":
                properties[field] = {"$ref": "#/components/schemas/Metadata"}
            else:
                _describe_default(field_schema)
        if not name.endswith(("In", "Patch")):
            schema["required"] = [
                field for field, field_schema in properties.items() if not field_schema.pop("x-if-there", False)
            ]
        elif name.endswith("Patch"):
            schema["minProperties"] = 1
    return ours


def _describe_default(field_schema: dict[str, Any]) -> None:
    """Move a field's default to its description: code generators take a field with a default for a required one."""
    default = field_schema.pop("default", None)
    if default is not None:
        field_schema["description"] = f"{field_schema.get('description', '')} `{default}` if it is left out.".strip()


def _parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the query parameters, none of them nullable: a parameter may be left out, but cannot be null."""
    parameters: list[dict[str, Any]] = operation.get("parameters", [])
    for parameter in parameters:
        schema = parameter["schema"]
        if isinstance(schema.get("type"), list):
            schema["type"] = next(kind for kind in schema["type"] if kind != "null")
        if "enum" in schema:
            schema["enum"] = [value for value in schema["enum"] if value is not None]
        if schema.get("default", 0) is None:
            del schema["default"]
    return parameters


def _headers(view: Any) -> list[dict[str, Any]]:
    honours = getattr(view, "honours", ())
    return [
        header
        for header in (IF_MATCH_FIELD, IF_NONE_MATCH_FIELD, IDEMPOTENCY_KEY_FIELD, LAST_EVENT_ID_FIELD)
        if header["name"] in honours
    ]


def _errors(rule: Rule, method: str, operation: dict[str, Any], view: Any) -> list[problems.Problem]:
    possible: list[_Error] = [*_ERRORS_OF_ALL, *getattr(view, "raised", ())]
    if rule.rule.startswith(API_PREFIX):
        possible += _ERRORS_OF_THE_API
    honours = getattr(view, "honours", ())
    if "chat_id" in rule.arguments:
        possible.append(errors.InvalidChatIdError)
        if not rule.rule.startswith(f"{API_PREFIX}v1/deletions"):
            possible.append(errors.ChatNotFoundError)
    possible += [not_found for part, not_found in _NOT_FOUND.items() if part in rule.arguments]
    if any(parameter["name"] == "cursor" for parameter in operation["parameters"]):
        possible.append(errors.InvalidCursorError)
    if "requestBody" in operation:
        possible += [415] if rule.endpoint.endswith("import_chat") else [415, errors.InvalidJsonError]
    if method != "GET":
        possible.append(errors.OutcomeUnknownError)
    if "If-Match" in honours:
        possible.append(errors.PreconditionFailedError)
    if "Idempotency-Key" in honours:
        possible += [errors.InvalidIdempotencyKeyError, errors.IdempotencyKeyReusedError]
    return [problems.HTTP[error] if isinstance(error, int) else problems.DOMAIN[error] for error in possible]


def _add_errors(responses: dict[str, Any], shared: dict[str, Any], possible: list[problems.Problem]) -> None:
    """Add the errors to an operation's responses; those that several operations share are described once."""
    responses.pop("422", None)  # the one that flask-smorest adds
    for status in sorted({problem.status for problem in possible}):
        by_code = {problem.code: problem for problem in possible if problem.status == status}
        name = ".".join([str(status), *sorted(by_code)])
        shared[name] = _error_response(status, by_code)
        responses[str(status)] = {"$ref": f"#/components/responses/{name}"}


def _error_response(status: int, by_code: dict[str, problems.Problem]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": " ".join(f"`{problem.code}`: {problem.detail}" for problem in by_code.values()),
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {code: {"value": _example(problem)} for code, problem in by_code.items()},
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
    """Describe the request body that has more than one schema."""
    posting = document["paths"][f"{API_PREFIX}v1/chats/{{chat_id}}/messages"]["post"]
    posting["requestBody"]["content"]["application/json"]["schema"] = {
        "oneOf": [{"$ref": "#/components/schemas/MessageIn"}, {"$ref": "#/components/schemas/MessagesIn"}]
    }
