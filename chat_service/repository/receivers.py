"""Checks the addresses of webhooks: they must not lead into private networks, such as the service's own.

The check that counts is made with the IP address of each connection. So neither a name that resolves to another address
a moment later, nor an unusual notation of an address, gets past it. The check when a webhook is created is only a help
to the caller.
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
"""A name server that does not answer blocks a thread of this pool, and not the caller's."""


def is_public(address: str) -> bool:
    """Return whether an IP address is public: global, unicast, and without an embedded address that is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded and not is_public(str(embedded)):
            return False
    return ip.is_global and not ip.is_multicast


def check_receiver(url: str, *, private_networks: bool) -> None:
    """Check that a webhook may have this URL.

    Raises:
        ReceiverRefusedError: it may not; the error's text says why.
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
    lookup = _lookups.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        return [str(entry[4][0]) for entry in lookup.result(LOOKUP_SECONDS)]
    except (OSError, UnicodeError, TimeoutError):
        raise ReceiverRefusedError("Its name leads nowhere.") from None
