"""Regular expressions that are compiled when they are first used, and not whenever a program begins.

    from packhorse.base.regex import regex

    _NAME = regex(r"[a-z]+")

One takes a third of a millisecond, and of those that a buildpack has most are for what is seldom there. What
`regex` gives has the methods of what `re.compile` gives, which is what a type checker sees.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import compile as regex
else:

    class regex:
        """A regular expression; not for `pickle` and `isinstance`."""

        def __init__(self, text: str, flags: int = 0) -> None:
            self._text = text
            self._flags = flags

        def __getattr__(self, name: str) -> object:
            if name.startswith("_"):
                raise AttributeError(name)
            # The next time it is found without this function.
            value = self.__dict__[name] = getattr(re.compile(self._text, self._flags), name)
            return value


__all__ = ["regex"]
