"""Sends one message to a webhook's receiver, by Standard Webhooks, and never to an address that is not allowed."""

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

ATTEMPT_SECONDS = 15.0
"""From the look-up of the host's name to the receiver's status."""

CONNECTIONS = 256


class AttemptResult(NamedTuple):
    """The result of an attempt: the receiver's status, None without a response, and the reason in one word."""

    status: int | None
    reason: str
    retry_after: float | None = None


class _PrivateAddressError(OSError):
    """The address to connect to is not a public one."""


class Sender:
    """Sends messages. It is made and used in one event loop."""

    def __init__(self, tracer: Tracer = SILENT, *, private_networks: bool) -> None:
        self._tracer = tracer
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS,
            # Names are looked up for each connection: the address of a minute ago may be somebody else's now.
            use_dns_cache=False,
            force_close=True,
            socket_factory=_any_socket if private_networks else _public_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS),
            headers={"User-Agent": f"chat-service/{__version__}", "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, attempt: Attempt, message: Any) -> AttemptResult:
        """Send the message, and return the result. Redirects are not followed, and no response body is read."""
        outgoing = self._tracer.outgoing(attempt.url, attempt.number)
        result = await self._post(attempt, orjson.dumps(message).decode(), outgoing.headers)
        outgoing.end(result.status, result.reason)
        return result

    async def _post(self, attempt: Attempt, body: str, trace_headers: Mapping[str, str]) -> AttemptResult:
        headers = {**trace_headers, **signed(attempt.delivery_id, attempt.at, body, attempt.secrets)}
        try:
            async with self._session.post(attempt.url, data=body, headers=headers, allow_redirects=False) as response:
                retry_after = _seconds(response.headers.get("Retry-After"), attempt.at)
                return AttemptResult(response.status, "delivered" if response.ok else "refused", retry_after)
        except TimeoutError:
            return AttemptResult(None, "timeout")
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
            return AttemptResult(None, "private_address" if _is_private(error) else "unreachable")


def signed(delivery_id: str, at: datetime, body: str, secrets: Sequence[bytes]) -> dict[str, str]:
    """Return the headers of Standard Webhooks, with a signature for each secret."""
    message_id = f"msg_{delivery_id}"
    signatures = [Webhook(secret).sign(message_id, at, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _public_socket(address_info: tuple[Any, ...]) -> socket.socket:
    """Return a socket for the very address that is connected to.

    Raises:
        _PrivateAddressError: the address is not public.
    """
    if not is_public(address_info[4][0]):
        raise _PrivateAddressError
    return _any_socket(address_info)


def _any_socket(address_info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address_info
    return socket.socket(family, kind, protocol)


def _is_private(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _PrivateAddressError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _seconds(retry_after: str | None, now: datetime) -> float | None:
    """Return the seconds that a receiver asks for, in either form of Retry-After."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return (parsedate_to_datetime(retry_after) - now).total_seconds()
    except (TypeError, ValueError):
        return None
