"""The OpenAPI document is valid and complete, and describes what the service does."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import validate

from chat_service.api import problems
from chat_service.api.auth import API_PREFIX
from chat_service.app import create_app
from chat_service.settings import Settings
from tests.mock_database import MockDatabase


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(Settings("unused", 2**20, threads=1, log_format="json"), MockDatabase())


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    openapi: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return openapi


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")


def test_every_operation_is_in_it(app: Flask, document: dict[str, Any]) -> None:
    """Every route of the API is in the document, with a summary and an operation id of its own."""
    routes = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(API_PREFIX) and not rule.rule.endswith("/ws")  # OpenAPI has no words for it
    }
    documented = operations(document)
    assert routes <= set(documented)
    assert all(operation["summary"] for operation in documented.values())
    ids = [operation["operationId"] for operation in documented.values()]
    assert len(set(ids)) == len(ids)


def test_the_api_needs_a_key_and_the_rest_does_not(document: dict[str, Any]) -> None:
    assert document["security"] == [{"key": []}]
    for (_, path), operation in operations(document).items():
        assert ("security" in operation) == (not path.startswith(API_PREFIX))


def test_every_error_is_documented_somewhere_with_its_example(document: dict[str, Any]) -> None:
    """The examples are those of the problem table, no more and no fewer."""
    examples = {
        code: example["value"]
        for response in document["components"]["responses"].values()
        for code, example in response["content"][problems.MEDIA_TYPE]["examples"].items()
    }
    not_over_http = {403, 426}  # only refusals of WebSockets
    table = [*problems.DOMAIN.values(), *(p for p in problems.HTTP.values() if p.status not in not_over_http)]
    assert set(examples) == {problem.code for problem in table}
    assert all(example["code"] == code for code, example in examples.items())


def test_every_operation_of_the_api_documents_its_rate_limit(document: dict[str, Any]) -> None:
    """It has a 429 with Retry-After, and headers on its successes; operations without a key have neither."""
    names = {"RateLimit", "RateLimit-Policy"}
    assert set(document["components"]["headers"]) == names
    for (_, path), operation in operations(document).items():
        limited = path.startswith(API_PREFIX)
        assert ("429" in operation["responses"]) == limited
        for status, response in operation["responses"].items():
            assert (names <= set(response.get("headers", {}))) == (limited and status.startswith("2"))
        if limited:
            name = operation["responses"]["429"]["$ref"].rsplit("/", 1)[1]
            headers = document["components"]["responses"][name]["headers"]
            assert names <= set(headers)
            assert headers["Retry-After"]["required"]


def test_the_published_operation(document: dict[str, Any]) -> None:
    """Its response has the three published fields, and its errors are documented."""
    operation = document["paths"]["/api/v1/chats/{chat_id}"]["delete"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert list(document["components"]["schemas"][answer]["properties"]) == ["success", "message", "deleted_at"]
    assert {"400", "401", "403", "404", "409", "412", "422", "503"} <= set(operation["responses"])
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        *("If-Match", "Idempotency-Key", "on_active", "export_sha256")
    }


OF_THE_API = ("/chats", "/deletions", "/trash", "/holds", "/retention", "/erasures", "/webhooks", "/log")


def test_the_api_page_names_only_addresses_that_exist(app: Flask, project) -> None:
    """Each address in the table of docs/api.md has a route."""
    routes = app.url_map.bind("")
    text = (project / "docs/api.md").read_text()
    for line in text.splitlines():
        if line.startswith("| `"):
            method, address = line.split("`")[1].split(" ")[:2]
            path = address.partition("?")[0].replace("{id}", "x").replace("{seq}", "1").replace("{name}", "x")
            prefix = "/api/v1" if path.startswith(OF_THE_API) else ""
            assert method in routes.allowed_methods(prefix + path), line


@pytest.mark.parametrize("path", ["/docs", "/docs/docs.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"])
def test_the_page_has_a_strict_content_security_policy(app: Flask, path: str) -> None:
    answer = app.test_client().get(path)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    answer.close()


@pytest.mark.parametrize("name", ["index.css", "../docs.py", "%2e%2e/docs.py", "oauth2-redirect.html", ".", "x"])
def test_no_other_file_of_the_folders_is_served(app: Flask, name: str) -> None:
    answer = app.test_client().get(f"/docs/{name}")
    assert answer.status_code == 404
    assert json.loads(answer.data)["code"] == "not_found"


def refers_to_itself(schemas: dict[str, Any], name: str, seen: tuple[str, ...] = ()) -> bool:
    """Return whether a schema contains itself."""
    if name in seen:
        return True
    references = re.findall(r"'#/components/schemas/(\w+)'", str(schemas[name]))
    return any(refers_to_itself(schemas, reference, (*seen, name)) for reference in references)


class TestForGenerators:
    """The document avoids what generators of clients cannot handle: see docs/api.md."""

    def test_no_schema_contains_itself(self, document) -> None:
        schemas = document["components"]["schemas"]
        assert [name for name in schemas if refers_to_itself(schemas, name)] == []

    def test_no_field_of_a_body_has_a_default(self, document) -> None:
        """Generators would take the field for one that is always present."""
        schemas = document["components"]["schemas"]
        with_default = [
            (name, field)
            for name, schema in schemas.items()
            for field, definition in schema.get("properties", {}).items()
            if "default" in definition
        ]
        assert with_default == []

    def test_every_operation_says_more_than_its_name(self, document) -> None:
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if method != "parameters":
                    assert len(operation["description"]) > 30 or path == "/api/v1/me", (method, path)

    def test_every_code_is_listed(self, document) -> None:
        listed = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
        assert set(listed) == {problem.code for problem in [*problems.DOMAIN.values(), *problems.HTTP.values()]}
