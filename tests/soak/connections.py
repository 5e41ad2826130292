"""The WebSockets of the load: a client opens and closes them, and each time waits until the outcome is certain."""

import json
from contextlib import suppress

import websocket

from tests.client import CHATS, TenantAccess

ANSWER_SECONDS = 40.0
"""Timeout of the client: longer than any timeout of the service."""

BY_SERVER = "by_server"
"""The code of a close that the server began: nobody knows when."""

LOST = (503, "outcome_unknown")
"""Status and code of an unknown outcome: the lease may still exist, until the next renewal or until it expires."""

REFUSALS = {4404: (404, "chat_not_found"), 1001: LOST, 1012: LOST, 1013: LOST}
"""Close code -> status and code of a request that fails for the same reason."""

_FAILURES = (OSError, websocket.WebSocketException)


class Sockets:
    """Opens and closes live connections to chats."""

    def __init__(self, port: int, access: TenantAccess) -> None:
        self._port = port
        self._access = access

    def open(self, chat_id: str) -> tuple[int, str, websocket.WebSocket | None]:
        """Connect, and return status (101, 404, 503), code, and the connection."""
        url = f"ws://127.0.0.1:{self._port}{CHATS}/{chat_id}/ws"
        try:
            socket = websocket.create_connection(
                url, ANSWER_SECONDS, header=self._access.headers, suppress_origin=True, enable_multithread=False
            )
        except _FAILURES:
            return *LOST, None
        with suppress(*_FAILURES):
            # A client that is refused gets the close frame before it gets a pong.
            socket.ping()
            opcode, data = socket.recv_data(control_frame=True)
            while opcode == websocket.ABNF.OPCODE_TEXT:
                opcode, data = socket.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_PONG:
                return 101, "", socket
            socket.shutdown()
            return *REFUSALS[int.from_bytes(data[:2])], None
        socket.shutdown()
        return *LOST, None

    def close(self, socket: websocket.WebSocket) -> tuple[int, str]:
        """Close a connection, wait until the service has released its lease, and return status (200, 503) and code."""
        with suppress(*_FAILURES):
            socket.send_close()
            while True:
                opcode, data = socket.recv_data(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                assert opcode != websocket.ABNF.OPCODE_TEXT or json.loads(data)["type"] != "error"
            # The service releases the lease last; then it closes the TCP connection, or its process ends.
            with suppress(ConnectionResetError):
                while socket.sock.recv(4096):
                    pass
            socket.shutdown()
            return 200, "" if int.from_bytes(data[:2]) == websocket.STATUS_NORMAL else BY_SERVER
        socket.shutdown()
        return LOST
