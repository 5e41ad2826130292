"""How the load connects to a chat: real WebSockets, opened and closed by a client that waits to be sure."""

import json
from contextlib import suppress

import websocket

from tests.client import CHATS, TenantAccess

ANSWER_SECONDS = 40.0
"""Longer than anything the service allows itself."""

BY_SERVER = "by_server"
"""The code of a close that was not the client's: nobody knows since when."""

LOST = (503, "outcome_unknown")
"""Of a connection that was not let in: its lease may be there all the same, until the next renewal or its end."""

REFUSALS = {4404: (404, "chat_not_found"), 1001: LOST, 1012: LOST, 1013: LOST}
"""Close code -> status and code of a request that met the same."""

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
            # Whoever is not let in gets its close before it gets an answer to this.
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
        """Close a connection, wait until the service has let go of it, and return status (200, 503) and code."""
        with suppress(*_FAILURES):
            socket.send_close()
            while True:
                opcode, data = socket.recv_data(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                assert opcode != websocket.ABNF.OPCODE_TEXT or json.loads(data)["type"] != "error"
            # The last thing the service does is to give the lease up; then it hangs up, or its process ends.
            with suppress(ConnectionResetError):
                while socket.sock.recv(4096):
                    pass
            socket.shutdown()
            return 200, "" if int.from_bytes(data[:2]) == websocket.STATUS_NORMAL else BY_SERVER
        socket.shutdown()
        return LOST
