"""Where webhooks may go: not into the networks that the service itself stands in.

An address is judged where it is connected to, by the very numbers, so that no name that means something else a moment
later, and no way of writing an address, gets past it. What is looked up when a webhook is made is only a kindness.
"""

import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import SplitResult, urlsplit

from chat_service.errors import ReceiverRefusedError

URL_CHARACTERS = 2_048
LOOKUP_SECONDS = 3.0

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_lookups = ThreadPoolExecutor(4, thread_name_prefix="receiver-lookup")
"""A name server that does not answer holds a thread here, and not the caller's."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is one that anybody may reach: global, unicast, and no other one in disguise."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner and not is_public(str(inner)):
            return False
    return found.is_global and not found.is_multicast


def check_receiver(url: str, *, private_networks: bool) -> None:
    """See that a webhook may have this address.

    Raises:
        ReceiverRefusedError: it may not; the text says why.
    """
    parts = _split(url)
    if private_networks:
        return
    if parts.scheme != "https":
        raise ReceiverRefusedError("Not an https address.")
    if not all(map(is_public, _look_up(parts.hostname or "", parts.port or 443))):
        raise ReceiverRefusedError("It leads into a private network.")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ReceiverRefusedError("Not an address.") from None
    is_whole = parts.scheme in {"http", "https"} and parts.hostname and port != 0
    if not is_whole or parts.username or parts.password or parts.fragment or not url.isascii() or " " in url:
        raise ReceiverRefusedError("Not an address like https://example.com/hook, without user, password and fragment.")
    return parts


def _look_up(host: str, port: int) -> list[str]:
    asked = _lookups.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        return [str(found[4][0]) for found in asked.result(LOOKUP_SECONDS)]
    except (OSError, UnicodeError, TimeoutError):
        raise ReceiverRefusedError("Its name leads nowhere.") from None
