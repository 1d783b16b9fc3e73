"""④ What a registry's refusals mean, in words (distribution-spec, "Error Codes").

Called by the other files of `image.registry`.
"""

from __future__ import annotations

from collections.abc import Iterable

from packhorse.base.http.message import Response, host_of, sanitize
from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.image.wire import JsonNode

_LIMIT = 64 * 1024  # bytes of an error document; some registries answer with a page of HTML


def refusal_error(
    response: Response, doing: str, *, origin: str = "", login: str = "", secrets: Iterable[str] = ()
) -> RegistryError | NotFoundError:
    """The error for an answer that is no success; `doing` completes "could not". Reads and closes the answer.

    `origin` says which credentials were presented, and `login` is the name to log in to the registry by.
    `secrets` are not shown, though the answer repeats them.
    """
    host, status = host_of(response.url), response.status
    said = _error_text(response, secrets)
    what = f"could not {doing}"
    if status == 404:
        return NotFoundError(what, why=said or f"{host} does not have it")
    if status in (401, 403):
        return RegistryError(
            what,
            why="\n".join(line for line in (f"{host} does not allow it: {said or status}", origin) if line),
            fix=f"check the name; if it is right and not public: packhorse login {login or host}",
            status=status,
        )
    if status == 429:
        wait = response.header("retry-after")
        return RegistryError(
            what,
            why=f"{host} has had too many requests: {said or status}",
            fix=f"wait{f' {wait} seconds' if wait.isdecimal() else ''}, or log in to have a higher limit",
            status=status,
        )
    fix = "try again later" if status >= 500 else ""
    if status in (405, 501):
        fix = f"check that {host} is a registry, and one that takes what is asked of it"
    if status == 413:
        fix = f"have {host}, or the proxy before it, take larger uploads"
    return RegistryError(what, why=f"{host} answered with status {status}: {said}", fix=fix, status=status)


def _error_text(response: Response, secrets: Iterable[str]) -> str:
    """The messages of an error document, or the beginning of what came in its place."""
    try:
        raw = response.read(_LIMIT)
    except NetworkError:
        return ""  # the status says the most important
    try:
        entries = JsonNode.parse(raw, "answer").nodes("errors")
        text = "; ".join(f"{entry.text('message')} ({entry.text('code')})" for entry in entries)
    except FormatError:
        text = "" if "html" in response.header("content-type") else raw.decode(errors="replace")
    return remove_secrets(secrets, text)


def remove_secrets(secrets: Iterable[str], text: str) -> str:
    """What a registry says, as it may be shown: it may repeat what it was sent, or steer a terminal."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return sanitize(text)
