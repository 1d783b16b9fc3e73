"""A credential helper that keeps its passwords in a file: `docker-credential-NAME` on a PATH of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

_PROGRAM = """#!{python}
import json, os, sys, time
verb, text = sys.argv[1], sys.stdin.read()
folder = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(folder, "asked"), "a") as log:
    log.write(verb + "\\n")
path = os.path.join(folder, "kept.json")
kept = json.load(open(path)) if os.path.exists(path) else {{}}
behaviour = {behaviour!r}
if behaviour == "hang":
    time.sleep(600)
if behaviour == "fail":
    print("hunter2")
    print("the keyring is locked", file=sys.stderr)
    sys.exit(2)
if behaviour == "blurt":
    print("hunter2")
    sys.exit(3)
if behaviour == "nonsense":
    print(json.dumps([text, "hunter2"]))
    sys.exit(0)
if behaviour == "half a character":
    print('{{"Username": "me", "Secret": "\\\\ud800"}}')
    sys.exit(0)
if verb == "store":
    entry = json.loads(text)
    kept[entry.pop("ServerURL")] = entry
elif text not in kept and verb != "list":
    print("credentials not found in native keychain")
    sys.exit(1)
elif verb == "get":
    print(json.dumps({{"ServerURL": text, **kept[text]}}))
elif verb == "erase":
    del kept[text]
elif verb == "list":
    print(json.dumps({{server: entry["Username"] for server, entry in kept.items()}}))
json.dump(kept, open(path, "w"))
"""


class FakeHelper:
    """Installs the helper `name` into `folder`; `behaviour` is "", or what it does wrong."""

    def __init__(self, folder: Path, name: str = "fake", *, behaviour: str = "") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / f"docker-credential-{name}"
        program.write_text(_PROGRAM.format(python=sys.executable, behaviour=behaviour))
        program.chmod(0o755)

    @property
    def kept(self) -> dict[str, dict[str, str]]:
        path = self._folder / "kept.json"
        found: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def keep(self, server: str, user: str, secret: str) -> None:
        entry = {server: {"Username": user, "Secret": secret}}
        (self._folder / "kept.json").write_text(json.dumps(self.kept | entry))

    @property
    def asked(self) -> list[str]:
        path = self._folder / "asked"
        return path.read_text().split() if path.exists() else []
