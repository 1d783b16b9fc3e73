"""What tells that nothing directly in a directory has changed, by lstat(2) alone; under every arrow.

Called by `source`, which makes stamps of a whole tree before it is used, and by `layers`, which makes them of
what it has listed. Few imports: processes are started for it.
"""

from __future__ import annotations

import hashlib
from array import array

Entry = tuple[str, int, int, int, int, int]
"""Name, mode with the kind, and of all but directories size (0 unless a file), times of modification and of
change (ns), and inode. What is in a directory has a stamp of its own.
"""

_WORD = (1 << 64) - 1
_DIGITS = 32
"""Of 64: nobody but who owns the tree chooses what is in it."""


def stamp(entries: list[Entry]) -> str:
    """A text that is the same as long as the entries are; sorts them."""
    entries.sort()
    numbers = array("Q")
    for _, mode, size, modified, changed, inode in entries:
        numbers.extend((mode, size, modified & _WORD, changed & _WORD, inode))  # before 1970 or after 2262
    total = hashlib.sha256("\0".join([entry[0] for entry in entries]).encode("utf-8", "surrogateescape"))
    total.update(numbers.tobytes())
    return total.hexdigest()[:_DIGITS]
