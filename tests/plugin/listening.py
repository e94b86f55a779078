"""A server that shows whether anybody has come."""

from __future__ import annotations

import contextlib
import socket
import threading


class Server:
    """A server on loopback that takes note of each request."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                self.requests.append(connection.recv(65536))
                connection.sendall(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 32\r\nConnection: close\r\n\r\n"
                    b'{"error_code": "INTERNAL_ERROR"}'
                )
                connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
