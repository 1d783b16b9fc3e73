"""Answers requests of the OCI distribution specification from memory; `testing.registry` has the sockets."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

_BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/")
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[0-9]+)")
_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")
_REFERRERS = re.compile(r"/v2/(?P<name>.+)/referrers/(?P<digest>sha256:[0-9a-f]{64})")
_CATALOG = re.compile(r"/v2/_catalog")

Query = dict[str, list[str]]


@dataclass
class Response:
    """The response to one request."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Repositories:
    """Repositories with their blobs, manifests and uploads, and how the registry treats them.

    Read and change the attributes at any time:

    - `blobs`: the bytes by repository and digest.
    - `manifests`: the media type and bytes by repository and reference (a tag or digest).
    - `uploads`: the bytes of unfinished uploads, by the upload's id.
    - `redirect_blobs`: the beginning of the address to which downloads are redirected; empty for none.
    - `accepts_ranges`: whether a download can begin in the middle of a blob.
    - `forgets_cut_uploads`: whether an upload is lost when its connection breaks, as in docker-registry 2.8.
    - `least_chunk`: the least length of a chunk of an upload. A shorter chunk is an error.
    - `page`: the most names that one page of a list has.
    - `endless`: makes lists that never end: "new" links pages with new names, "same" the same page again.
    - `has_referrers`, `has_catalog`, `deletes`: whether the registry has these endpoints.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.redirect_blobs = ""
        self.accepts_ranges = True
        self.forgets_cut_uploads = False
        self.least_chunk = 0
        self.page = 1000
        self.endless = ""
        self.has_referrers = True
        self.has_catalog = True
        self.deletes = True
        self._ids = itertools.count(1)

    def put_blob(self, name: str, data: bytes) -> str:
        """Stores a blob in the repository `name`, and returns its digest."""
        digest = _digest(data)
        self.blobs.setdefault(name, {})[digest] = data
        return digest

    def put_manifest(self, name: str, tag: str, data: bytes, media_type: str) -> str:
        """Stores a manifest under a tag and its digest, and returns the digest. Checks nothing."""
        digest = _digest(data)
        for reference in (tag, digest):
            self.manifests[name, reference] = media_type, data
        return digest

    def serve(self, method: str, path: str, query: Query, headers: dict[str, str], body: bytes) -> Response:
        """Answers a request whose sender is authorized."""
        routes: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [
            ("GET HEAD", _BLOB, self._get_blob),
            ("GET HEAD", _MANIFEST, self._get_manifest),
            ("DELETE", _MANIFEST, self._delete_manifest),
            ("GET", _TAGS, self._get_tags),
            ("GET", _CATALOG, self._get_catalog),
            ("GET", _REFERRERS, self._get_referrers),
            ("PUT", _MANIFEST, self._put_manifest),
            ("POST", _UPLOADS, self._start_upload),
            ("PATCH PUT GET DELETE", _UPLOAD, self._continue_upload),
        ]
        if path == "/v2/":
            return Response(200, {"content-type": "application/json"}, b"{}")
        for methods, pattern, endpoint in routes:
            match = pattern.fullmatch(path)
            if match and method in methods.split():
                return endpoint(match, method=method, query=query, headers=headers, body=body)
        return error_response(404, "NOT_FOUND", path)

    def accept_cut_upload(self, path: str, body: bytes) -> None:
        """Keeps or forgets the part of an upload's body that arrived before the connection broke."""
        match = _UPLOAD.fullmatch(path)
        if match and match["id"] in self.uploads:
            self.uploads[match["id"]] += body
            if self.forgets_cut_uploads:
                del self.uploads[match["id"]]

    def _get_blob(self, match: re.Match[str], *, headers: dict[str, str], **_: Any) -> Response:
        if self.redirect_blobs:
            return Response(307, {"location": f"{self.redirect_blobs}{match.string}"})
        data = self.blobs.get(match["name"], {}).get(match["digest"])
        if data is None:
            return error_response(404, "BLOB_UNKNOWN", "blob unknown to registry")
        kind = {"content-type": "application/octet-stream", "docker-content-digest": match["digest"]}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if not wanted or not self.accepts_ranges:
            return Response(200, kind, data)
        start = int(wanted[1])
        return Response(
            206, {**kind, "content-range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]
        )

    def _get_manifest(self, match: re.Match[str], **_: Any) -> Response:
        found = self.manifests.get((match["name"], match["reference"]))
        if found is None:
            return error_response(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = found
        digest = _digest(data)
        return Response(200, {"content-type": media_type, "docker-content-digest": digest}, data)

    def _delete_manifest(self, match: re.Match[str], **_: Any) -> Response:
        name, reference = match["name"], match["reference"]
        if not self.deletes:
            return error_response(405, "UNSUPPORTED", "the operation is unsupported")
        if (name, reference) not in self.manifests:
            return error_response(404, "MANIFEST_UNKNOWN", "manifest unknown")
        data = self.manifests.pop((name, reference))[1]
        if reference.startswith("sha256:"):
            same = [key for key, (_, other) in self.manifests.items() if key[0] == name and other == data]
            for key in same:
                del self.manifests[key]
        return Response(202)

    def _get_tags(self, match: re.Match[str], *, query: Query, **_: Any) -> Response:
        tags = [
            tag for name, tag in self.manifests if name == match["name"] and not tag.startswith("sha256:")
        ]
        if not any(name == match["name"] for name, _ in self.manifests):
            return error_response(404, "NAME_UNKNOWN", "repository name not known to registry")
        return self._page(match.string, sorted(tags), "tags", query, {"name": match["name"]})

    def _get_catalog(self, match: re.Match[str], *, query: Query, **_: Any) -> Response:
        if not self.has_catalog:
            return error_response(404, "UNSUPPORTED", "no catalogue")
        names = sorted({name for name, _ in self.manifests})
        return self._page(match.string, names, "repositories", query, {})

    def _page(self, path: str, names: list[str], key: str, query: Query, more: dict[str, Any]) -> Response:
        last = query.get("last", [""])[0]
        length = min(self.page, int(query.get("n", [str(self.page)])[0]))
        left = [name for name in names if name > last]
        headers = {"content-type": "application/json"}
        if self.endless:
            number = next(self._ids)
            headers["link"] = f'<{path}?number={number}>; rel="next"'
            found = [f"{number}-{each}" for each in range(1000)] if self.endless == "new" else names
            return Response(200, headers, json.dumps({**more, key: found}).encode())
        if len(left) > length:
            following = urlencode({"last": left[length - 1], "n": length})
            headers["link"] = f'<{path}?{following}>; rel="next"'
        return Response(200, headers, json.dumps({**more, key: left[:length]}).encode())

    def _get_referrers(self, match: re.Match[str], *, query: Query, **_: Any) -> Response:
        if not self.has_referrers:
            return error_response(404, "NOT_FOUND", match.string)
        kind = query.get("artifactType", [""])[0]
        found = []
        for (name, reference), (media_type, data) in sorted(self.manifests.items()):
            document = json.loads(data)
            subject = document.get("subject", {}).get("digest")
            if (name, subject) != (match["name"], match["digest"]) or not reference.startswith("sha256:"):
                continue
            artifact = document.get("artifactType") or document.get("config", {}).get("mediaType", "")
            if kind in ("", artifact):
                entry = {"mediaType": media_type, "digest": reference, "size": len(data)}
                found.append(entry | {"artifactType": artifact})
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}
        headers = {"content-type": _INDEX} | ({"oci-filters-applied": "artifactType"} if kind else {})
        if self.endless:
            headers["link"] = f'<{match.string}?number={next(self._ids)}>; rel="next"'
        return Response(200, headers, json.dumps(index).encode())

    def _put_manifest(
        self, match: re.Match[str], *, headers: dict[str, str], body: bytes, **_: Any
    ) -> Response:
        name, reference = match["name"], match["reference"]
        digest = _digest(body)
        if reference.startswith("sha256:") and reference != digest:
            return error_response(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        document = json.loads(body)
        held = self.blobs.get(name, {})
        wanted = [document["config"], *document["layers"]] if "config" in document else []
        missing = [each["digest"] for each in wanted if each["digest"] not in held]
        missing += [
            m["digest"] for m in document.get("manifests", []) if (name, m["digest"]) not in self.manifests
        ]
        if missing:
            return error_response(400, "MANIFEST_BLOB_UNKNOWN", f"blob unknown to registry: {missing[0]}")
        self.put_manifest(name, reference, body, headers.get("content-type", ""))
        answer = Response(201, {"location": match.string, "docker-content-digest": digest})
        if "subject" in document and self.has_referrers:
            answer.headers["oci-subject"] = document["subject"]["digest"]
        return answer

    def _start_upload(self, match: re.Match[str], *, query: dict[str, list[str]], **_: Any) -> Response:
        name = match["name"]
        if "mount" in query:
            digest = query["mount"][0]
            data = self.blobs.get(query.get("from", [""])[0], {}).get(digest)
            if data is not None:
                self.put_blob(name, data)
                return Response(
                    201, {"location": f"/v2/{name}/blobs/{digest}", "docker-content-digest": digest}
                )
        upload = str(next(self._ids))
        self.uploads[upload] = b""
        headers = {"location": f"/v2/{name}/blobs/uploads/{upload}?state=1", "range": "0-0"}
        if self.least_chunk:
            headers["oci-chunk-min-length"] = str(self.least_chunk)
        return Response(202, headers)

    def _continue_upload(
        self,
        match: re.Match[str],
        *,
        method: str,
        query: Query,
        headers: dict[str, str],
        body: bytes,
    ) -> Response:
        name, upload = match["name"], match["id"]
        if upload not in self.uploads:
            return error_response(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if method == "DELETE":
            del self.uploads[upload]
            return Response(204)
        there = len(self.uploads[upload])
        wanted = re.fullmatch(r"(\d+)-(\d+)", headers.get("content-range", ""))
        if wanted and (int(wanted[1]), int(wanted[2])) != (there, there + len(body) - 1):
            return error_response(416, "BLOB_UPLOAD_INVALID", "out of order")
        if method == "PATCH" and len(body) < self.least_chunk:
            return error_response(416, "BLOB_UPLOAD_INVALID", "the chunk is too short")
        self.uploads[upload] += body
        if method != "PUT":
            end = max(0, len(self.uploads[upload]) - 1)
            where = {"location": f"{match.string}?state=2", "range": f"0-{end}"}
            return Response(202 if method == "PATCH" else 204, where)
        data, claimed = self.uploads.pop(upload), query.get("digest", [""])[0]
        digest = _digest(data)
        if claimed != digest:
            return error_response(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.put_blob(name, data)
        return Response(201, {"location": f"/v2/{name}/blobs/{digest}", "docker-content-digest": digest})


_INDEX = "application/vnd.oci.image.index.v1+json"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def error_response(status: int, code: str, message: str) -> Response:
    """A response with one error in the specification's format."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Response(status, {"content-type": "application/json"}, body)
