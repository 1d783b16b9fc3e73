"""A registry of npm packages on loopback: those of a folder, and all others from the user's registry, kept.

All programs of a benchmark get the same packages from it at the same speed, so the network is not measured.
Called by the scenarios; the server is a process of its own.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

from fakes.docker_registry import wait_for

_PATIENCE = 120.0


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A running registry; its address ends with a slash."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = subprocess.run(["npm", "config", "get", "registry"], check=True, capture_output=True, text=True)
    command = [sys.executable, "-m", __name__, str(folder), str(port), said.stdout.strip()]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root / "tests")})
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


def publish(folder: Path, name: str, *, files: int, size: int, seed: int) -> str:
    """Puts a package of words into the folder of a registry; returns its integrity."""
    chosen = random.Random(seed)
    words = ["".join(chosen.choices("abcdefghijklmnop_(){};=.", k=chosen.randint(2, 9))) for _ in range(500)]
    text = " ".join(chosen.choices(words, k=size // 3)).encode()
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        _add(tar, "package.json", json.dumps({"name": name, "version": "1.0.0"}).encode())
        for number in range(files):
            start = chosen.randrange(max(1, len(text) - size))
            _add(tar, f"lib/file{number}.js", b"// " + text[start : start + size] + b"\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tgz").write_bytes(buffer.getvalue())
    return _integrity(buffer.getvalue())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"package/{name}")
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


def _integrity(archive: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}"


class _Shop:
    """What the server has: packages of its folder, and what it has fetched, below `fetched`."""

    def __init__(self, folder: Path, own: str, upstream: str) -> None:
        self._folder, self._own, self._upstream = folder, own, upstream
        self._fetched = folder / "fetched"
        self._fetched.mkdir(parents=True, exist_ok=True)
        self._addresses: dict[str, str] = {}
        self._lock = threading.Lock()

    def answer(self, path: str, accept: str) -> bytes | None:
        """A document or an archive; None when there is no such thing."""
        name, _, archive = unquote(path).strip("/").partition("/-/")
        ours = self._folder / f"{name}.tgz"
        if "/" not in name and ours.is_file():
            return ours.read_bytes() if archive else self._document(name, ours.read_bytes())
        kept = self._fetched / hashlib.sha256(f"{path} {'' if archive else accept}".encode()).hexdigest()
        with self._lock:
            if not kept.exists():
                address = self._addresses.get(path, self._upstream.rstrip("/") + path)
                with urlopen(
                    Request(address, headers={"Accept": accept or "*/*"}), timeout=_PATIENCE
                ) as told:
                    kept.write_bytes(told.read())
        return kept.read_bytes() if archive else self._ours(name, kept.read_bytes())

    def _ours(self, name: str, document: bytes) -> bytes:
        """The document with addresses of archives here."""
        read = json.loads(document)
        for version in read.get("versions", {}).values():
            address = version["dist"]["tarball"]
            path = f"/{quote(name)}/-/{address.rpartition('/')[2]}"
            self._addresses[path] = address
            version["dist"]["tarball"] = self._own + path
        return json.dumps(read).encode()

    def _document(self, name: str, archive: bytes) -> bytes:
        dist = {"tarball": f"{self._own}/{name}/-/{name}-1.0.0.tgz", "integrity": _integrity(archive)}
        version = {"name": name, "version": "1.0.0", "dist": dist}
        document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        return json.dumps(document).encode()


def _serve(folder: Path, port: int, upstream: str) -> None:
    shop = _Shop(folder, f"http://127.0.0.1:{port}", upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                found = shop.answer(self.path, self.headers.get("Accept", ""))
            except OSError as error:
                print(f"  {self.path}: {error}", file=sys.stderr)
                found = None
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(found or b"{}")))
            self.end_headers()
            self.wfile.write(found or b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients may go."""

    with Server(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
