"""The kinds of values that arrive and leave, where marshmallow's own check too little or write otherwise."""

import re
from datetime import UTC, datetime
from typing import Any

import orjson
from marshmallow import ValidationError, fields, validate

from chat_service.api.requests import parse_uuid

METADATA_BYTES = 16 * 2**10
METADATA_DEPTH = 32
"""MongoDB stores documents up to 100 deep; a third leaves room for where we put them, and is more than anyone reads."""


def milliseconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339 with milliseconds and `Z`."""
    return time.isoformat(timespec="milliseconds")[:-6] + "Z"


def seconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339 with whole seconds and `Z`, as `deleted_at` is published."""
    return time.isoformat(timespec="seconds")[:-6] + "Z"


class Time(fields.Field[datetime]):
    """A time that leaves in milliseconds."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else milliseconds(value)


class UtcTime(fields.Field[datetime]):
    """A time that arrives as it left, in RFC 3339 with milliseconds and `Z`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        try:
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        except (TypeError, ValueError):
            raise ValidationError("Not a time like 2024-01-15T10:45:00.000Z.") from None


class Metadata(fields.Dict):
    """An object of the caller's own, kept as it is."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]
        _check_storable(loaded, METADATA_DEPTH)
        if len(orjson.dumps(loaded)) > METADATA_BYTES:
            raise ValidationError(f"Longer than {METADATA_BYTES:,} bytes as JSON.")
        return loaded


def _check_storable(value: Any, depth: int) -> None:
    """Refuse what MongoDB cannot store or would read as an operator."""
    if depth == 0:
        raise ValidationError(f"Nested deeper than {METADATA_DEPTH} levels.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.startswith("$") or "." in key or "\0" in key:
                raise ValidationError("A key may not start with $ or contain a dot or NUL.")
            _check_storable(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_storable(inner, depth - 1)


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise ValidationError("May not contain NUL.")


def text_rules(most: int, least: int = 1) -> list[Any]:
    """Return the validators of a text of `least` to `most` characters: any characters but NUL."""
    return [validate.Length(least, most), _refuse_nul]


class Uuid(fields.String):
    """A UUID in either case, as its canonical lower-case form."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        canonical = parse_uuid(super()._deserialize(value, *args, **kwargs))
        if canonical is None:
            raise ValidationError("Not a UUID: 8-4-4-4-12 hexadecimal digits.")
        return canonical


class Number(fields.Integer):
    """A whole number in a query string: ASCII digits, no sign, no spaces, no underscores."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not re.fullmatch("[0-9]{1,18}", str(value), re.ASCII):
            raise ValidationError("Not a whole number of at most 18 digits.")
        number = super()._deserialize(value, *args, **kwargs)
        assert number is not None  # noqa: S101 - fields.Integer returns None only for None
        return number
