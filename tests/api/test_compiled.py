"""The fast readers of schemas and of JSON return exactly what the slow ones do."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError

from chat_service.api import message_schemas, strict_json
from chat_service.api.compiled import compiled
from chat_service.errors import InvalidJsonError

MESSAGE = {"role": "user", "content": "x", "sender_id": None, "metadata": {}}
EXPORTED = {**MESSAGE, "seq": 1, "created_at": "2024-01-15T10:45:00.000Z", "edited_at": None}

TEXTS = ["", "\0", "tool", "x" * 201, "x" * 32_768, "x" * 32_769, "2024-01-15t10:45:00+01:00", "2024-02-30T00:00:00Z"]
NUMBERS = [0, -1, 2**63 - 1, 10**18 - 1, 10**18, 1.0, 0.5, True]
OBJECTS = [{"$a": 1}, {"a.b": 1}, {"a": {"\0": 1}}, {"a": "x" * 20_000}, {}, [], [[]], None, MESSAGE, [MESSAGE]]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def near(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield `whole`, and variants of it: a field is missing, has another value, or is one too many."""
    yield whole
    for name in (*whole, "other"):
        yield {other: value for other, value in whole.items() if other != name}
        yield from ({**whole, name: value} for value in (*TEXTS, *NUMBERS, *OBJECTS))


CASES = {
    "a message": (message_schemas.MessageIn(), [*near(MESSAGE), *OBJECTS]),
    "a batch": (message_schemas.BatchIn(), [{"messages": [MESSAGE, message]} for message in near(MESSAGE)]),
    "no batch": (message_schemas.BatchIn(), [{"messages": value} for value in (*OBJECTS, *NUMBERS, [MESSAGE] * 1_001)]),
    "a line": (
        message_schemas.ExportedMessageIn(),
        [{"type": "message", "message": message} for message in near(EXPORTED)],
    ),
    "no line": (message_schemas.ExportedMessageIn(), list(near({"type": "message", "message": EXPORTED}))),
}


def outcome(read: Any, data: Any) -> Any:
    try:
        return read(data)
    except ValidationError as error:
        return error.messages
    except InvalidJsonError as error:
        return error.reason


@pytest.mark.parametrize(("schema", "values"), CASES.values(), ids=CASES)
def test_a_compiled_schema_reads_as_the_schema_does(schema: Schema, values: list[Any]) -> None:
    """The compiled reader returns the same value for valid input, and the same errors for invalid input."""
    read_compiled = compiled(schema)
    outcomes = [(outcome(read_compiled, value), outcome(schema.load, value)) for value in values]
    assert [fast for fast, _ in outcomes] == [slow for _, slow in outcomes]
    assert any(isinstance(fast, dict) for fast, _ in outcomes)


@settings(deadline=None)
@given(ANYTHING.map(json.dumps) | st.text(alphabet='{}[]":,a0 \\-.e', max_size=12))
@example('{"a" :1,"a":2}')
@example('{"a":{"b":1},"a":"\\":"}')
@example('{"a"\t:1,"a"\n:2}')
@example("9223372036854775808")
@example("-9223372036854775809")
@example("18446744073709551616")
@example("[1e400, -0, 1.0]")
def test_json_is_read_as_strictly_by_the_fast_reader(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_count_keys", lambda _: -1)
        expected = outcome(strict_json.parse_json, text.encode())
    fast = outcome(strict_json.parse_json, text.encode())
    assert (fast, type(fast)) == (expected, type(expected))
