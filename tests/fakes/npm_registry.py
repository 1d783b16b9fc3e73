"""A registry of npm packages on loopback that gives them only to who has its token."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class NpmRegistry:
    """`url` ends with a slash; `seen` has the paths that were asked for, `refused` those without token."""

    token: str
    url: str = ""
    packages: dict[str, dict[str, tuple[dict[str, Any], bytes]]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def publish(self, name: str, files: Mapping[str, str], version: str = "1.0.0", **more: Any) -> None:
        """Publishes a version of a package, the newest then; package.json is made, with `more` in it."""
        manifest = {"name": name, "version": version, **more}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path, text in {"package.json": json.dumps(manifest), **files}.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
        archive = buffer.getvalue()
        integrity = f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}"
        dist = {
            "tarball": f"{self.url}{name}/-/{version}.tgz",
            "integrity": integrity,
            "shasum": hashlib.sha1(archive).hexdigest(),
        }
        self.packages.setdefault(name, {})[version] = {**manifest, "dist": dist}, archive

    def answer(self, path: str) -> bytes | None:
        """A package's document or archive; None when there is no such thing."""
        name, _, archive = unquote(path).strip("/").partition("/-/")
        if name not in self.packages:
            return None
        versions = self.packages[name]
        if archive:
            return versions[archive.removesuffix(".tgz")][1]
        document = {
            "name": name,
            "dist-tags": {"latest": list(versions)[-1]},
            "versions": {version: manifest for version, (manifest, _) in versions.items()},
            # Newer package managers take nothing that may be too new.
            "time": dict.fromkeys(versions, "2020-01-01T00:00:00.000Z"),
        }
        return json.dumps(document).encode()


@contextmanager
def npm_registry(token: str) -> Iterator[NpmRegistry]:
    """A running registry."""
    registry = NpmRegistry(token)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.seen.append(self.path)
            if self.headers["Authorization"] != f"Bearer {token}":
                registry.refused.append(self.path)
                self._say(401, b"{}")
                return
            found = registry.answer(self.path)
            self._say(404 if found is None else 200, found or b"{}")

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield registry
        server.shutdown()
