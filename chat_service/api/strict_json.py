"""JSON as RFC 8259 defines it, without anything that parsers silently disagree on."""

import json
import math
import re
from typing import Any, NoReturn

import orjson

from chat_service.errors import InvalidJsonError

_SPACE_AFTER_KEY = re.compile(rb'"\s+:')


def parse_json(raw: bytes) -> Any:
    """Return the JSON value in `raw`; an empty body is an error too.

    Raises:
        InvalidJsonError: not UTF-8, not RFC 8259, nested too deep, or one of the things parsers silently disagree on
            (duplicate keys, NaN, numbers out of range, unpaired surrogates).
    """
    if not raw:
        raise InvalidJsonError("The body is empty.")
    try:
        # orjson is strict on encoding, surrogates, depth and trailing text; it accepts duplicate keys and big integers.
        value = orjson.loads(raw)
        if raw.count(b'":') == _count_keys(value) and not _SPACE_AFTER_KEY.search(raw):
            return value
        return json.loads(
            raw, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_int64
        )
    except orjson.JSONDecodeError as error:
        raise InvalidJsonError(f"The error is at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise InvalidJsonError("Nested too deeply.") from None


def _count_keys(value: Any) -> int:
    """Return how many keys the objects in `value` have; -1 if it has a number that may have been rounded or too large.

    If the text has as many keys, no object has the same key twice.
    """
    keys = 0
    pending = [value]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind is dict:
            keys += len(value)
            pending += value.values()
        elif kind is list:
            pending += value
        elif kind is float or (kind is int and value >= 2**63):
            return -1
    return keys


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJsonError("An object has the same key twice.")
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidJsonError("NaN and Infinity are not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidJsonError("A number is out of range.")
    return number


def _int64(text: str) -> int:
    # 20 characters hold every 64-bit integer with its sign; a longer text is too large, and is not converted.
    number = int(text) if len(text) <= 20 else 2**63  # noqa: PLR2004
    if not -(2**63) <= number < 2**63:
        raise InvalidJsonError("An integer needs more than 64 bits.")
    return number
