"""Which line of `packhorse doctor` a runtime's own message is about; called by the runtimes that fail."""

from __future__ import annotations

import re

_WORDS = (
    ("overlay", r"overlay"),
    ("seccomp", r"seccomp"),
    ("user-namespaces", r"new namespace|[ug]id[ _]map|setgroups|/ns/user|user namespace|^bwrap: loopback"),
)


def find_check(words: str, otherwise: str) -> str:
    """The name of the line; `otherwise` where none is plain."""
    for name, pattern in _WORDS:
        if re.search(pattern, words, re.IGNORECASE | re.MULTILINE):
            return name
    return otherwise
