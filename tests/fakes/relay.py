"""A way to an engine's socket that counts what passes, and can cut it off; by TLS where it is told to."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType


class Relay:
    """Listens at `path`, or with `certificates` on a port of 127.0.0.1, and passes all on to `engine`.

    `sent` and `received` are bytes to and from the engine. After `cut_after` sent bytes, if it is not 0, each
    connection breaks.
    """

    def __init__(self, path: Path, engine: Path, *, certificates: Path | None = None) -> None:
        self.sent = self.received = self.cut_after = 0
        self._engine = engine
        self._context: ssl.SSLContext | None = None
        if certificates is None:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(str(path))
            self._server.listen()
            self.address = f"unix://{path}"
        else:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
            self._context.load_verify_locations(certificates / "ca.pem")
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._server = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        try:
            if self._context:
                client = self._context.wrap_socket(client, server_side=True)
            engine.connect(str(self._engine))
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pass, args=(engine, client, "received"), daemon=True)
        back.start()
        self._pass(client, engine, "sent")
        back.join()
        client.close()
        engine.close()

    def _pass(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                setattr(self, counter, getattr(self, counter) + len(data))
                if counter == "sent" and self.cut_after and self.sent > self.cut_after:
                    for end in (source, target):
                        end.shutdown(socket.SHUT_RDWR)
                    return
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
