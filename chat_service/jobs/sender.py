"""Sends one message to a webhook's receiver, by Standard Webhooks, and never to where it may not go."""

import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp
import orjson
from standardwebhooks.webhooks import Webhook

from chat_service import __version__
from chat_service.models import Attempt
from chat_service.repository.receivers import is_public
from chat_service.repository.tracer import SILENT, Tracer

TRY_SECONDS = 15.0
"""From the look-up of the name to the receiver's status."""

CONNECTIONS = 256


class AttemptResult(NamedTuple):
    """What came of a try."""

    status: int | None
    reason: str
    retry_after: float | None = None


class _PrivateAddressError(OSError):
    """The address that was about to be connected to is not a public one."""


class Sender:
    """Sends messages; made and used in one event loop."""

    def __init__(self, tracer: Tracer = SILENT, *, private_networks: bool) -> None:
        self._tracer = tracer
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS,
            # Names are looked up for each connection: what was right a minute ago may be another's now.
            use_dns_cache=False,
            force_close=True,
            socket_factory=_any_socket if private_networks else _public_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TRY_SECONDS),
            headers={"User-Agent": f"chat-service/{__version__}", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, attempt: Attempt, message: Any) -> AttemptResult:
        """Send the message, and return what came of it. Redirects are not followed, and no body is read."""
        outgoing = self._tracer.outgoing(attempt.url, attempt.number)
        told = await self._post(attempt, orjson.dumps(message).decode(), outgoing.headers)
        outgoing.end(told.status, told.reason)
        return told

    async def _post(self, attempt: Attempt, body: str, more: Mapping[str, str]) -> AttemptResult:
        headers = {**more, **signed(attempt.delivery_id, attempt.at, body, attempt.secrets)}
        try:
            async with self._session.post(attempt.url, data=body, headers=headers, allow_redirects=False) as answer:
                retry_after = _seconds(answer.headers.get("Retry-After"), attempt.at)
                return AttemptResult(answer.status, "delivered" if answer.ok else "refused", retry_after)
        except TimeoutError:
            return AttemptResult(None, "timeout")
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
            return AttemptResult(None, "private_address" if _is_private(error) else "unreachable")


def signed(delivery_id: str, at: datetime, body: str, secrets: Sequence[bytes]) -> dict[str, str]:
    """Return the headers that Standard Webhooks asks for; a signature for each secret."""
    message_id = f"msg_{delivery_id}"
    signatures = [Webhook(secret).sign(message_id, at, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _public_socket(found: tuple[Any, ...]) -> socket.socket:
    """Make the socket for an address, which is the one that is connected to.

    Raises:
        _PrivateAddressError: it is none that everybody may reach.
    """
    if not is_public(found[4][0]):
        raise _PrivateAddressError
    return _any_socket(found)


def _any_socket(found: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = found
    return socket.socket(family, kind, protocol)


def _is_private(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _PrivateAddressError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _seconds(retry_after: str | None, now: datetime) -> float | None:
    """Return the seconds that a receiver asks for, in either form that HTTP has."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return (parsedate_to_datetime(retry_after) - now).total_seconds()
    except (TypeError, ValueError):
        return None
