"""Recognizes SPDX identifiers and expressions among the licence texts of package metadata.

Called by `sdk.sbom`. The schemas of SBOM formats accept only known identifiers. So any text that this list of
common ones does not cover becomes free text in the SBOM.
"""

from __future__ import annotations

import re

IDS = frozenset(
    [
        "0BSD",
        "AFL-2.0",
        "AFL-2.1",
        "AFL-3.0",
        "AGPL-3.0-only",
        "AGPL-3.0-or-later",
        "Apache-1.1",
        "Apache-2.0",
        "Artistic-1.0",
        "Artistic-2.0",
        "BSD-1-Clause",
        "BSD-2-Clause",
        "BSD-2-Clause-Patent",
        "BSD-3-Clause",
        "BSD-3-Clause-Clear",
        "BSD-4-Clause",
        "BSL-1.0",
        "BlueOak-1.0.0",
        "BUSL-1.1",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "CDDL-1.0",
        "CDDL-1.1",
        "CPL-1.0",
        "ECL-2.0",
        "EPL-1.0",
        "EPL-2.0",
        "EUPL-1.1",
        "EUPL-1.2",
        "FSFAP",
        "FTL",
        "GPL-1.0-only",
        "GPL-2.0-only",
        "GPL-2.0-or-later",
        "GPL-3.0-only",
        "GPL-3.0-or-later",
        "HPND",
        "ICU",
        "IJG",
        "ISC",
        "JSON",
        "LGPL-2.0-only",
        "LGPL-2.0-or-later",
        "LGPL-2.1-only",
        "LGPL-2.1-or-later",
        "LGPL-3.0-only",
        "LGPL-3.0-or-later",
        "LiLiQ-P-1.1",
        "Libpng",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-1.1",
        "MPL-2.0",
        "MS-PL",
        "MS-RL",
        "MulanPSL-2.0",
        "NCSA",
        "NTP",
        "OFL-1.1",
        "OLDAP-2.8",
        "OSL-3.0",
        "OpenSSL",
        "PHP-3.01",
        "PSF-2.0",
        "PostgreSQL",
        "Python-2.0",
        "Python-2.0.1",
        "QPL-1.0",
        "Ruby",
        "SSPL-1.0",
        "UPL-1.0",
        "Unicode-3.0",
        "Unicode-DFS-2016",
        "Unlicense",
        "Vim",
        "W3C",
        "WTFPL",
        "X11",
        "ZPL-2.1",
        "Zlib",
        "curl",
    ]
)
"""Identifiers that packages commonly have."""

_EXCEPTIONS = frozenset(
    ["Classpath-exception-2.0", "GCC-exception-3.1", "LLVM-exception", "OpenJDK-assembly-exception-1.0"]
)
_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9.+-]+)\s*")
_LONGEST = 500


def is_expression(text: str) -> bool:
    """Whether `text` is an SPDX expression whose identifiers are all known: `(MIT OR Apache-2.0)`."""
    if text in IDS:
        return True
    tokens, position = [], 0
    if len(text) > _LONGEST:
        return False
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            return False
        tokens.append(found[1])
        position = found.end()
    rest = _disjunction(tokens)
    return rest == [] and bool(tokens)


def _disjunction(tokens: list[str]) -> list[str] | None:
    """Reads terms joined by AND and OR; returns the words after them, or None if there is no term."""
    rest = _term(tokens)
    while rest and rest[0] in ("AND", "OR"):
        rest = _term(rest[1:])
    return rest


def _term(tokens: list[str]) -> list[str] | None:
    if tokens[:1] == ["("]:
        rest = _disjunction(tokens[1:])
        return rest[1:] if rest and rest[0] == ")" else None
    if not tokens or tokens[0].removesuffix("+") not in IDS:
        return None
    if tokens[1:2] == ["WITH"]:
        return tokens[3:] if tokens[2:3] and tokens[2] in _EXCEPTIONS else None
    return tokens[1:]
