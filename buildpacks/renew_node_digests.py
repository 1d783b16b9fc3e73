"""Writes the digests of Node.js and npm that the Node.js buildpack knows: `make digests`.

It asks the npm client of this machine, and so the registry that the client is set up for, for the integrity
of every version of the lines that still get fixes or did within the last year, and of each npm that goes with
a line (releases.toml). It ends where a version has another digest than in the file: what was published once
does not change, so one of the two is wrong. See which before you remove a line by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from datetime import date, timedelta
from pathlib import Path

DATA = Path(__file__).parent / "nodejs/nodejs"
TABLE = DATA / "digests.toml"
HEAD = """\
# The SHA-512 of packages of the npm registry by version, as npm writes it: the file that the buildpack wants,
# whatever registry or mirror it comes from. Made by `make digests`; a version that is not here is allowed.
"""


def main() -> None:
    """Asks for all digests and writes the table anew, what was in it included."""
    releases = tomllib.loads((DATA / "releases.toml").read_text())
    known = tomllib.loads(TABLE.read_text()) if TABLE.is_file() else {}
    recent = date.today() - timedelta(days=365)
    lines = [line["major"] for line in releases["lines"] if line["ends"] >= recent]
    asked = {f"node-linux-{arch}": " || ".join(map(str, lines)) for arch in ("arm64", "x64")}
    asked["npm"] = " || ".join(pair["version"] for pair in releases["npm"])
    text = HEAD
    for name, range_ in asked.items():
        found = dict(known.get(name, {}))
        for version, integrity in _published(name, range_).items():
            if found.setdefault(version, integrity) != integrity:
                sys.exit(f"{name} {version} has another digest now: {integrity}, not {found[version]}")
        rows = (f'"{version}" = "{found[version]}"\n' for version in sorted(found, key=_numbers))
        text += f"\n[{name}]\n{''.join(rows)}"
    TABLE.write_text(text)


def _published(name: str, range_: str) -> dict[str, str]:
    """The integrity of each version in a range, without those before a release."""
    argv = ["npm", "view", f"{name}@{range_}", "version", "dist.integrity", "--json"]
    said = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    entries = said if isinstance(said, list) else [said]
    return {one["version"]: one["dist.integrity"] for one in entries if "-" not in one["version"]}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


if __name__ == "__main__":
    main()
