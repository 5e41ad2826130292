"""The kinds of values that arrive and leave, where marshmallow's own check too little or write otherwise.

Each describes itself for the specification as strictly as it checks.
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
"""MongoDB stores documents up to 100 deep; a third leaves room for where we put them, and is more than anyone reads."""

# RFC 3339, section 5.6, in either case. What `datetime` knows beyond it (weeks, days of the year) is not meant.
_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_LEAP_SECOND = "60"


def seconds(time: datetime) -> str:
    """Return a UTC time in RFC 3339 with whole seconds and `Z`, as `deleted_at` is published."""
    return time.isoformat(timespec="seconds")[:-6] + "Z"


class Time(fields.Field[datetime]):
    """A time that leaves in milliseconds."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else milliseconds(value)


class Seconds(fields.Field[datetime]):
    """A time that leaves in whole seconds."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else seconds(value)


class _LeftOut(fields.Field[Any]):
    """What leaves if it is there; the specification does not require it."""

    def __init__(self, *arguments: Any, metadata: dict[str, Any], **named: Any) -> None:
        super().__init__(*arguments, metadata={**metadata, "x-if-there": True}, **named)

    def get_value(self, obj: Any, *arguments: Any, **named: Any) -> Any:
        """Return the value, or marshmallow's word for nothing."""
        found = super().get_value(obj, *arguments, **named)
        return missing if found is None else found


class IfThere(_LeftOut, fields.String):
    """A text that leaves if there is one."""


class ListIfThere(_LeftOut, fields.List[Any]):
    """A list that leaves if there is one."""


class Rfc3339(fields.Field[datetime]):
    """A time that arrives in RFC 3339, whatever its offset; it is kept in UTC."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        found = _RFC_3339.fullmatch(value.upper()) if isinstance(value, str) else None
        if found is not None:
            minute, second, fraction, offset = found.groups()
            leap = timedelta(seconds=second == _LEAP_SECOND)  # told as the second after it: there is no other name
            second = "59" if leap else second
            with suppress(ValueError, OverflowError):
                time = datetime.fromisoformat(f"{minute}{second}{(fraction or '')[:7]}{offset}")
                return (time + leap).astimezone(UTC)
        raise ValidationError("Not a time like 2024-01-15T10:45:00.000Z.")


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


class Text(fields.String):
    """A text of `least` to `most` characters: any but NUL."""

    def __init__(self, most: int, least: int = 1, **kwargs: Any) -> None:
        told = {"pattern": r"^[^\u0000]*$", **kwargs.pop("metadata", {})}
        super().__init__(validate=[validate.Length(least, most), _refuse_nul], metadata=told, **kwargs)
        self.least, self.most = least, most


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise ValidationError("May not contain NUL.")


class Uuid(fields.String):
    """A UUID in either case, as its canonical lower-case form."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metadata={"format": "uuid", **kwargs.pop("metadata", {})}, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        canonical = parse_uuid(super()._deserialize(value, *args, **kwargs))
        if canonical is None:
            raise ValidationError("Not a UUID: 8-4-4-4-12 hexadecimal digits.")
        return canonical


class Flag(fields.Boolean):
    """`true` or `false`, and nothing that only looks like it."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Neither true nor false.")
        return value


class WholeNumber(fields.Integer):
    """A whole number in a body; 7.0 is one too, as JSON has it, and "7" is not."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole or isinstance(value, bool):
            raise ValidationError("Not a whole number.")
        number = super()._deserialize(value, *args, **kwargs)
        assert number is not None  # noqa: S101 - fields.Integer returns None only for None
        return number


class Number(fields.Integer):
    """A whole number in a query string: ASCII digits, no sign, no spaces, no underscores."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not re.fullmatch("[0-9]{1,18}", str(value), re.ASCII):
            raise ValidationError("Not a whole number of at most 18 digits.")
        number = super()._deserialize(value, *args, **kwargs)
        assert number is not None  # noqa: S101 - fields.Integer returns None only for None
        return number
