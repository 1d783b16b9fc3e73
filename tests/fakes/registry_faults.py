"""The failures of registries: each case, what packhorse does, and what is lost.

`tests/unit/oci/registry/test_faults.py` makes each happen. docs/how-to/registries.md has them as tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from packhorse.errors import FormatError, NetworkError, PackhorseError
from packhorse.testing import FakeRegistry, Fault

ALWAYS = 999
USER, PASSWORD = "me", "open-sesame-7f3a"


@dataclass(frozen=True)
class Case:
    """`prepare` makes a registry fail. `error` is what packhorse raises, None if it succeeds."""

    name: str
    prepare: Callable[[FakeRegistry], None]
    happens: str
    lost: str = "nothing"
    error: type[PackhorseError] | None = None

    @property
    def row(self) -> str:
        """The line in the documentation."""
        return f"| {self.name} | {self.happens} | {self.lost} |"


def fault(method: str, path: str, **what: object) -> Callable[[FakeRegistry], None]:
    """One fault, as `Fault` has it."""
    return lambda server: server.faults.append(Fault(method=method, path=path, **what))  # type: ignore[arg-type]


def challenge(text: str) -> Callable[[FakeRegistry], None]:
    """A registry that asks in this way who one is, whenever somebody comes without a token."""
    headers = {"www-authenticate": text} if text else {}
    return fault("GET", "/v2/", status=401, headers=headers, times=ALWAYS)


def short_tokens(server: FakeRegistry) -> None:
    server.token_life = 2


def forgetful(server: FakeRegistry) -> None:
    server.forgets_cut_uploads = True
    server.faults.append(
        Fault(method="PUT", path="/blobs/uploads/", cut_request=1_400_000, min_body=1_400_000)
    )


def no_ranges(server: FakeRegistry) -> None:
    server.accepts_ranges = False
    server.faults.append(Fault(path="/blobs/", cut_response=1_400_000, skip=1))


_WRONG = "sha256:" + "0" * 64
_BLOBS, _UPLOADS, _MANIFESTS = "/blobs/sha256", "/blobs/uploads/", "/manifests/"
_PUT, _GET = "PUT", "GET"

PULLS = (
    Case("slow answers", fault(_GET, _BLOBS, delay=0.3, times=3), "waits, up to 60 seconds without any data"),
    Case(
        "a layer's download is cut",
        fault(_GET, _BLOBS, cut_response=1_400_000, skip=1),
        "continues where it was, with a range request",
    ),
    Case("… and the registry knows no ranges", no_ranges, "reads the layer again and skips what it has"),
    Case(
        "a download is cut again and again",
        fault(_GET, _BLOBS, cut_response=1000, skip=1, times=ALWAYS),
        "gives up after five cuts within a mebibyte",
        error=NetworkError,
    ),
    Case(
        "a layer of the wrong digest",
        fault(_GET, _BLOBS, body=b"x" * 2_000_000, skip=1, times=ALWAYS),
        "refuses it as it arrives",
        error=FormatError,
    ),
    Case(
        "a layer of the wrong length",
        fault(_GET, _BLOBS, body=b"x", skip=1, times=ALWAYS),
        "refuses it before it reads it",
        error=FormatError,
    ),
    Case(
        "a manifest is cut",
        fault(_GET, _MANIFESTS, cut_response=100, skip=1),
        "reads it again",
    ),
    Case(
        "a manifest that ends too early",
        fault(_GET, _MANIFESTS, body=b'{"schemaVersion": 2, "lay', skip=1),
        "refuses it",
        error=FormatError,
    ),
    Case(
        "a manifest that is not what its digest says",
        fault(_GET, _MANIFESTS, headers={"docker-content-digest": _WRONG}, skip=1),
        "refuses it",
        error=FormatError,
    ),
    Case("500 once", fault(_GET, _MANIFESTS, status=500), "asks again after half a second"),
    Case("no answer once", fault(_GET, _MANIFESTS, hang_up=True), "asks again after half a second"),
    Case(
        "429 with Retry-After",
        fault(_GET, _BLOBS, status=429, headers={"retry-after": "2"}, times=2),
        "asks again after that time",
    ),
    Case(
        "429 again and again",
        fault(_GET, _BLOBS, status=429, times=ALWAYS),
        "ends with an error after five tries; the error says to wait or log in",
        error=NetworkError,
    ),
    Case("tokens that end soon", short_tokens, "fetches a new one when one is refused"),
    Case(
        "401 without a challenge",
        challenge(""),
        "ends with an error that names the credentials",
        error=NetworkError,
    ),
    Case(
        "401 of an unknown kind",
        challenge('Negotiate abc, Hawk x="y"'),
        "ends with an error",
        error=NetworkError,
    ),
    Case(
        "401 with a token server that does not exist",
        challenge('Bearer realm="nowhere"'),
        "ends with an error",
        error=NetworkError,
    ),
    Case(
        "401 with a token server without TLS",
        challenge('Bearer realm="http://tokens.example/token"'),
        "ends with an error; does not send the password there",
        error=NetworkError,
    ),
    Case("401 that is nonsense", challenge('"""=,,,\\\\ Bearer'), "ends with an error", error=NetworkError),
)

PUSHES = (
    Case(
        "an upload is cut at 70 %",
        fault(_PUT, _UPLOADS, cut_request=1_400_000, min_body=1_400_000),
        "asks the registry how much it has, and sends the rest",
    ),
    Case("… and the registry has forgotten it", forgetful, "sends it again", "the time for what was sent"),
    Case(
        "an upload gets nowhere",
        fault(_PUT, _UPLOADS, cut_request=0, times=ALWAYS),
        "gives up after five tries within a mebibyte",
        "nothing that has arrived: the next push continues with it",
        error=NetworkError,
    ),
    Case("500 once, at the beginning of an upload", fault("POST", _UPLOADS, status=500), "starts again"),
    Case("no answer, at the beginning of an upload", fault("POST", _UPLOADS, hang_up=True), "starts again"),
    Case(
        "500 once, at the end of an upload",
        fault(_PUT, _UPLOADS, status=500),
        "asks the registry how much it has",
    ),
    Case("the answer to an upload is lost", fault(_PUT, _UPLOADS, hang_up=True), "asks the registry"),
    Case(
        "429 with Retry-After",
        fault(_PUT, _UPLOADS, status=429, headers={"retry-after": "2"}),
        "continues after that time",
    ),
    Case("413", fault(_PUT, _UPLOADS, status=413, min_body=1_100_000, times=ALWAYS), "sends it in chunks"),
    Case(
        "413 for chunks too",
        lambda server: server.faults.extend(
            Fault(method=method, path=_UPLOADS, status=413, times=ALWAYS) for method in ("PUT", "PATCH")
        ),
        "ends with an error; the error says that something on the way accepts no larger request",
        error=NetworkError,
    ),
    Case("tokens that end soon", short_tokens, "fetches a new one when one is refused"),
    Case(
        "denied, or over the quota (403)",
        fault("POST", _UPLOADS, status=403, times=ALWAYS),
        "ends at once with the registry's error",
        error=NetworkError,
    ),
    Case(
        "the registry stores something else",
        fault(_PUT, _UPLOADS, headers={"docker-content-digest": _WRONG}),
        "ends with an error; the tag stays as it was",
        error=FormatError,
    ),
    Case(
        "the tag may not be changed (409)",
        fault(_PUT, _MANIFESTS, status=409, times=ALWAYS),
        "ends at once with the registry's error; the tag stays as it was",
        error=NetworkError,
    ),
    Case("500 once for the manifest", fault(_PUT, _MANIFESTS, status=500), "sends it again"),
    Case("the answer to the manifest is lost", fault(_PUT, _MANIFESTS, hang_up=True), "sends it again"),
)
