"""④ What a registry warns of in headers of its answers, told once (distribution-spec, "Warnings").

Called by `image.registry.client`. Nothing is done because of a warning.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable

from packhorse.base.http.message import Response, host_of
from packhorse.image.registry.answer import remove_secrets

_WARNING = re.compile(r'(?:^|,)\s*299\s+\S+\s+"((?:[^"\\]|\\.)*)"')  # RFC 7234 5.5
_LIMIT = 4096  # characters of warnings that an answer may have
_MOST = 16  # warnings of one registry that are told


def ignore_warning(text: str) -> None:
    """Tells nobody."""


class Warnings:
    """The warnings of one registry, each handed to `tell` when it first comes; for any thread."""

    def __init__(self, tell: Callable[[str], None] = ignore_warning) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def report(self, response: Response, secrets: Iterable[str] = ()) -> None:
        """Tells what an answer warns of; `secrets` are not shown, though it repeats them."""
        header = response.header("warning")[:_LIMIT]
        for quoted in _WARNING.findall(header) if header else ():
            text = re.sub(r"\\(.)", r"\1", quoted)
            self._report_once(f"{host_of(response.url)} warns: {remove_secrets(secrets, text)}")

    def _report_once(self, text: str) -> None:
        with self._lock:
            is_new = text not in self._told and len(self._told) < _MOST
            if is_new:
                self._told.add(text)
        if is_new:
            self._tell(text)
