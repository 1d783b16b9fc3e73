"""What goes wrong with registries: each case, what packhorse does then, and what is lost by it.

`tests/unit/image/registry/test_faults.py` lets each happen; the tables of docs/registries.md are these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fakes.registry import FakeRegistry, Fault
from packhorse.errors import FormatError, NetworkError, PackhorseError

ALWAYS = 999
USER, PASSWORD = "me", "open-sesame-7f3a"


@dataclass(frozen=True)
class Case:
    """`prepare` makes a registry go wrong; `error` is what comes of it, None where all is well in the end."""

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
    server.faults.append(Fault(method="PUT", path="/blobs/uploads/", take=1_400_000, least=1_400_000))


def no_ranges(server: FakeRegistry) -> None:
    server.accepts_ranges = False
    server.faults.append(Fault(path="/blobs/", cut_after=1_400_000, spared=1))


_WRONG = "sha256:" + "0" * 64
_BLOBS, _UPLOADS, _MANIFESTS = "/blobs/sha256", "/blobs/uploads/", "/manifests/"
_PUT, _GET = "PUT", "GET"

PULLS = (
    Case("slow answers", fault(_GET, _BLOBS, delay=0.3, times=3), "waited for, up to 60 seconds in silence"),
    Case(
        "a layer's download is cut",
        fault(_GET, _BLOBS, cut_after=1_400_000, spared=1),
        "it goes on where it was, by a range",
    ),
    Case("… and the registry knows no ranges", no_ranges, "it is read again, what is there is passed over"),
    Case(
        "a download is cut again and again",
        fault(_GET, _BLOBS, cut_after=1000, spared=1, times=ALWAYS),
        "given up after five cuts within a mebibyte",
        error=NetworkError,
    ),
    Case(
        "a layer of the wrong digest",
        fault(_GET, _BLOBS, body=b"x" * 2_000_000, spared=1, times=ALWAYS),
        "refused as it arrives",
        error=FormatError,
    ),
    Case(
        "a layer of the wrong length",
        fault(_GET, _BLOBS, body=b"x", spared=1, times=ALWAYS),
        "refused before it is read",
        error=FormatError,
    ),
    Case(
        "a manifest is cut",
        fault(_GET, _MANIFESTS, cut_after=100, spared=1),
        "read again",
    ),
    Case(
        "a manifest that ends too early",
        fault(_GET, _MANIFESTS, body=b'{"schemaVersion": 2, "lay', spared=1),
        "refused",
        error=FormatError,
    ),
    Case(
        "a manifest that is not what its digest says",
        fault(_GET, _MANIFESTS, headers={"docker-content-digest": _WRONG}, spared=1),
        "refused",
        error=FormatError,
    ),
    Case("500 once", fault(_GET, _MANIFESTS, status=500), "asked again after half a second"),
    Case("no answer once", fault(_GET, _MANIFESTS, hang_up=True), "asked again after half a second"),
    Case(
        "429 with Retry-After",
        fault(_GET, _BLOBS, status=429, headers={"retry-after": "2"}, times=2),
        "asked again after that time",
    ),
    Case(
        "429 without an end",
        fault(_GET, _BLOBS, status=429, times=ALWAYS),
        "an error after five tries; it says to wait or log in",
        error=NetworkError,
    ),
    Case("tokens that end soon", short_tokens, "fetched anew when one is refused"),
    Case("401 without a challenge", challenge(""), "an error; it names the credentials", error=NetworkError),
    Case("401 of an unknown kind", challenge('Negotiate abc, Hawk x="y"'), "an error", error=NetworkError),
    Case(
        "401 with a token server that is none",
        challenge('Bearer realm="nowhere"'),
        "an error",
        error=NetworkError,
    ),
    Case(
        "401 with a token server in the open",
        challenge('Bearer realm="http://tokens.example/token"'),
        "an error; the password is not sent there",
        error=NetworkError,
    ),
    Case("401 that is nonsense", challenge('"""=,,,\\\\ Bearer'), "an error", error=NetworkError),
)

PUSHES = (
    Case(
        "an upload is cut at 70 %",
        fault(_PUT, _UPLOADS, take=1_400_000, least=1_400_000),
        "the registry is asked how much it has, and sent the rest",
    ),
    Case("… and the registry has forgotten it", forgetful, "it is sent again", "the time for what was sent"),
    Case(
        "an upload gets nowhere",
        fault(_PUT, _UPLOADS, take=0, times=ALWAYS),
        "given up after five tries within a mebibyte",
        "nothing that has arrived: the next push goes on with it",
        error=NetworkError,
    ),
    Case("500 once, at the beginning of an upload", fault("POST", _UPLOADS, status=500), "begun again"),
    Case("no answer, at the beginning of an upload", fault("POST", _UPLOADS, hang_up=True), "begun again"),
    Case("500 once, at its end", fault(_PUT, _UPLOADS, status=500), "the registry is asked how much it has"),
    Case("the answer to an upload is lost", fault(_PUT, _UPLOADS, hang_up=True), "the registry is asked"),
    Case(
        "429 with Retry-After",
        fault(_PUT, _UPLOADS, status=429, headers={"retry-after": "2"}),
        "taken up after that time",
    ),
    Case("413", fault(_PUT, _UPLOADS, status=413, least=1_100_000, times=ALWAYS), "sent in chunks"),
    Case(
        "413 for chunks, too",
        lambda server: server.faults.extend(
            Fault(method=method, path=_UPLOADS, status=413, times=ALWAYS) for method in ("PUT", "PATCH")
        ),
        "an error; it says that something on the way takes no more",
        error=NetworkError,
    ),
    Case("tokens that end soon", short_tokens, "fetched anew when one is refused"),
    Case(
        "denied, or over the quota (403)",
        fault("POST", _UPLOADS, status=403, times=ALWAYS),
        "an error at once, with the registry's words",
        error=NetworkError,
    ),
    Case(
        "the registry stores something else",
        fault(_PUT, _UPLOADS, headers={"docker-content-digest": _WRONG}),
        "an error; the tag stays as it was",
        error=FormatError,
    ),
    Case(
        "the tag may not be changed (409)",
        fault(_PUT, _MANIFESTS, status=409, times=ALWAYS),
        "an error at once, with the registry's words; the tag stays as it was",
        error=NetworkError,
    ),
    Case("500 once for the manifest", fault(_PUT, _MANIFESTS, status=500), "sent again"),
    Case("the answer to the manifest is lost", fault(_PUT, _MANIFESTS, hang_up=True), "sent again"),
)
