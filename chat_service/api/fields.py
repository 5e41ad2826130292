"""Field types of the schemas, where marshmallow's own check too little or write another form.

Each describes itself in the OpenAPI document as strictly as it checks.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from marshmallow import ValidationError, fields, missing, validate

from chat_service.api.parsing import parse_uuid
from chat_service.models import milliseconds

METADATA_BYTES = 16 * 2**10
METADATA_DEPTH = 32
"""MongoDB stores documents up to 100 deep; a third leaves room for our own levels, and is more than anyone reads."""

# RFC 3339, section 5.6, in either case. What `datetime` reads beyond it (weeks, days of the year) is refused.
_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_LEAP_SECOND = "60"


def seconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339 with whole seconds and `Z`, as `deleted_at` is published."""
    return time.isoformat(timespec="seconds")[:-6] + "Z"


class Time(fields.Field[datetime]):
    """A time that is written with milliseconds."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else milliseconds(value)


class Seconds(fields.Field[datetime]):
    """A time that is written in whole seconds."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else seconds(value)


class _Optional(fields.Field[Any]):
    """A value that is left out of a response if it is None; the specification does not require it."""

    def __init__(self, *arguments: Any, metadata: dict[str, Any], **named: Any) -> None:
        super().__init__(*arguments, metadata={**metadata, "x-if-there": True}, **named)

    def get_value(self, obj: Any, *arguments: Any, **named: Any) -> Any:
        """Return the value, or `missing` in place of None: marshmallow leaves that out."""
        value = super().get_value(obj, *arguments, **named)
        return missing if value is None else value


class IfThere(_Optional, fields.String):
    """A text that is left out if there is none."""


class ListIfThere(_Optional, fields.List[Any]):
    """A list that is left out if there is none."""


class Rfc3339(fields.Field[datetime]):
    """A time that is read in RFC 3339, with any offset, and kept in UTC."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        parts = _RFC_3339.fullmatch(value.upper()) if isinstance(value, str) else None
        if parts is not None:
            minute, second, fraction, offset = parts.groups()
            leap = timedelta(seconds=second == _LEAP_SECOND)  # kept as the second after it: datetime has no :60
            second = "59" if leap else second
            with suppress(ValueError, OverflowError):
                time = datetime.fromisoformat(f"{minute}{second}{(fraction or '')[:7]}{offset}")
                return (time + leap).astimezone(UTC)
        raise ValidationError("Must be a time in RFC 3339, like 2024-01-15T10:45:00.000Z.")


class Metadata(fields.Dict):
    """A JSON object of the caller's own, stored as it is."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]
        _check_storable(loaded, METADATA_DEPTH)
        if len(orjson.dumps(loaded)) > METADATA_BYTES:
            raise ValidationError(f"Must be at most {METADATA_BYTES:,} bytes long as JSON.")
        return loaded


def _check_storable(value: Any, depth: int) -> None:
    """Refuse what MongoDB cannot store, or would read as an operator."""
    if depth == 0:
        raise ValidationError(f"Must be nested at most {METADATA_DEPTH} levels deep.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.startswith("$") or "." in key or "\0" in key:
                raise ValidationError("A key must not start with $, and must not contain a dot or NUL.")
            _check_storable(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_storable(inner, depth - 1)


class Text(fields.String):
    """A text of `least` to `most` characters, none of them NUL."""

    def __init__(self, most: int, least: int = 1, **kwargs: Any) -> None:
        metadata = {"pattern": r"^[^\u0000]*$", **kwargs.pop("metadata", {})}
        super().__init__(validate=[validate.Length(least, most), _refuse_nul], metadata=metadata, **kwargs)
        self.least, self.most = least, most


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise ValidationError("Must not contain NUL (U+0000).")


class Uuid(fields.String):
    """A UUID that is read in either case, and kept in its canonical lower-case form."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metadata={"format": "uuid", **kwargs.pop("metadata", {})}, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        canonical = parse_uuid(super()._deserialize(value, *args, **kwargs))
        if canonical is None:
            raise ValidationError("Must be a UUID: 8-4-4-4-12 hexadecimal digits.")
        return canonical


class Flag(fields.Boolean):
    """`true` or `false`; nothing else is taken for one of them, as marshmallow does with 1 or "yes"."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value


class WholeNumber(fields.Integer):
    """A whole number in a body: 7.0 is one too, as in JSON, and "7" is not."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole or isinstance(value, bool):
            raise ValidationError("Must be a whole number.")
        number = super()._deserialize(value, *args, **kwargs)
        assert number is not None  # noqa: S101 - fields.Integer returns None only for None
        return number


class Number(fields.Integer):
    """A whole number in a query string: ASCII digits, no sign, no spaces, no underscores."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not re.fullmatch("[0-9]{1,18}", str(value), re.ASCII):
            raise ValidationError("Must be a whole number of at most 18 digits, without a sign.")
        number = super()._deserialize(value, *args, **kwargs)
        assert number is not None  # noqa: S101 - fields.Integer returns None only for None
        return number
