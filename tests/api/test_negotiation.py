"""Media types, codings and times are accepted in every form that the RFCs allow."""

import pytest
from marshmallow import ValidationError

from chat_service.api.fields import Rfc3339
from chat_service.models import milliseconds
from tests.client import CHATS, Client

JSON = "application/json"


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (JSON, 200),
        ("Application/JSON", 200),
        (f"{JSON}; charset=utf-8", 200),
        (f"{JSON};odata=verbose", 200),
        (f"text/html, {JSON};q=0.1", 200),
        ("application/*", 200),
        ("text/html, */*;q=0.1", 200),
        ("application/problem+json", 200),
        ("", 200),
        (f"{JSON};q=0, */*", 406),
        ("application/*;q=0, */*", 406),
        ("*/*;q=0", 406),
        ("text/html", 406),
        ("application/jsonp", 406),
    ],
)
def test_the_most_specific_range_decides(alice: Client, accept: str, status: int) -> None:
    """The range in Accept that matches most closely decides, as in RFC 9110, section 12.5.1."""
    assert alice.send("GET", CHATS, headers={"Accept": accept}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 201),
        ({"Content-Type": "APPLICATION/JSON; Charset=UTF8"}, 201),
        ({"Content-Type": f'{JSON}; charset="utf-8"'}, 201),
        ({"Content-Type": JSON, "Content-Encoding": "Identity"}, 201),
        ({"Content-Type": f"{JSON}; charset=latin-1"}, 415),
        ({"Content-Type": JSON, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_a_body_is_read_by_its_content_type(alice: Client, headers: dict[str, str], status: int) -> None:
    """JSON is accepted without a Content-Type too, and with that of a form, which `curl -d '{}'` sends."""
    assert alice.send("POST", CHATS, data=b"{}", headers=headers).status_code == status


def test_a_form_is_not_json(alice: Client) -> None:
    answer = alice.send("POST", CHATS, data=b"title=x", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-15T10:45:00Z", "2024-01-15T10:45:00.000Z"),
        ("2024-01-15t10:45:00.5z", "2024-01-15T10:45:00.500Z"),
        ("2024-01-15T10:45:00.123456789+02:00", "2024-01-15T08:45:00.123Z"),
        ("2024-01-15T10:45:00.1234567890123-00:00", "2024-01-15T10:45:00.123Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_every_form_of_a_time_is_accepted(text: str, expected: str) -> None:
    """RFC 3339, section 5.6, allows lower case, any fraction, leap seconds and unknown offsets."""
    assert milliseconds(Rfc3339().deserialize(text)) == expected


@pytest.mark.parametrize(
    "text", ["2024-01-15", "2024-01-15 10:45:00Z", "2024-W03-1T10:45:00Z", "2024-01-15T10:45Z", "2024-01-15T25:00:00Z"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Rfc3339().deserialize(text)
