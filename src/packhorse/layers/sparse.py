"""③ Where the data of a sparse file goes, in the four forms that GNU tar has written it in.

Called by `layers.untar` alone; GNU tar's manual, "Storing Sparse Files". A map is only believed when its
extents are in order, do not overlap, end within the file, and add up to what the archive holds of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from packhorse.errors import FormatError

Extent = tuple[int, int]
"""An offset in the file and a number of bytes."""

PREFIX = b"GNU.sparse."
MAP = PREFIX + b"map"
REPEATED = (PREFIX + b"offset", PREFIX + b"numbytes")
"""Records of version 0.0, which come once for each extent; `untar` joins them to what 0.1 has."""

_LIMIT = 1 << 20  # bytes of one map; Go's reader has the same limit
_BLOCK = 512
_NUMBER = re.compile(rb"[0-9]{1,19}")
_ENTRY = 24  # bytes of an extent in a block: two numbers of twelve digits
_IN_HEADER, _IN_BLOCK = (386, 4), (0, 21)  # where the extents begin, and how many there are
_REAL_SIZE = slice(483, 495)

Block = Callable[[], bytes]
"""Takes the next 512 bytes of the archive."""


def read_header_map(block: bytes, more: Block, number: Callable[[bytes], int]) -> tuple[int, list[Extent]]:
    """The size and extents of an entry of type S: in its header and, where it says so, in `more` blocks."""
    size = number(block[_REAL_SIZE])
    extents: list[Extent] = []
    (start, count), taken = _IN_HEADER, 0
    while True:
        end = start + count * _ENTRY
        for at in range(start, end, _ENTRY):
            if not block[at]:
                break
            extents.append((number(block[at : at + 12]), number(block[at + 12 : at + _ENTRY])))
        if not block[end]:
            return size, extents
        taken += _BLOCK
        if taken > _LIMIT:
            raise _map_error(f"it is longer than {_LIMIT} bytes")
        block = more()
        start, count = _IN_BLOCK


def read_records_map(records: Mapping[bytes, bytes], more: Block) -> tuple[int, list[Extent], int] | None:
    """The size and extents that PAX records tell of, and how many bytes of `more` blocks that took.

    None when they tell of no sparse file, or of one in a version that nobody has written.
    """
    version = records.get(PREFIX + b"major", b""), records.get(PREFIX + b"minor", b"")
    taken = 0
    if version == (b"1", b"0"):
        numbers, taken = _read_leading_map(more)
    elif version in ((b"0", b"0"), (b"0", b"1")) or (version == (b"", b"") and MAP in records):
        numbers = [_parse_number(digits) for digits in records.get(MAP, b"").split(b",") if digits]
        if len(numbers) != 2 * _parse_number(records.get(PREFIX + b"numblocks", b"")):
            raise _map_error("it has another length than it says")
    else:
        return None
    size = _parse_number(records.get(PREFIX + b"size") or records.get(PREFIX + b"realsize") or b"")
    return size, list(zip(numbers[::2], numbers[1::2], strict=True)), taken


def validate(extents: Sequence[Extent], size: int, stored: int) -> list[Extent]:
    """The extents that have data; raises FormatError for a map that cannot be of such a file."""
    end = total = 0
    for offset, length in extents:
        if offset < end:
            raise _map_error("it goes backwards")
        end = offset + length
        total += length
    if end > size:
        raise _map_error("it leads beyond the end of the file")
    if total != stored:
        raise _map_error("it speaks of another number of bytes than there are")
    return [extent for extent in extents if extent[1]]


def _read_leading_map(more: Block) -> tuple[list[int], int]:
    """The numbers of version 1.0, each on a line, in front of the data: how many extents, then those."""
    text = b""
    wanted = 1
    while (lines := text.count(b"\n")) < wanted:
        if len(text) >= _LIMIT:
            raise _map_error(f"it is longer than {_LIMIT} bytes")
        # A block can hold 256 numbers at most, so the text grows by all that are surely needed.
        text += b"".join(more() for _ in range(max(1, (wanted - lines) // 256)))
        if wanted == 1 and b"\n" in text:
            wanted += 2 * _parse_number(text.partition(b"\n")[0])
            if 2 * wanted > _LIMIT:
                raise _map_error(f"it is longer than {_LIMIT} bytes")
    return [_parse_number(line) for line in text.split(b"\n", wanted)[1:wanted]], len(text)


def _parse_number(digits: bytes) -> int:
    if not _NUMBER.fullmatch(digits):
        raise _map_error("there is something else than a number in it")
    return int(digits)


def _map_error(why: str) -> FormatError:
    return FormatError("the map of a sparse file cannot be used", why=why)
