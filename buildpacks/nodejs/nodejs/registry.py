"""Fetches packages from the package registry through the npm client of the build image.

Called by `runtime` and the managers. The client also fetches Node.js itself, so one setting of a mirror,
proxy or credential in .npmrc serves both Node.js and the dependencies. npm checks each archive against the
registry's SHA-512 (`dist.integrity`). But whoever controls the registry or a mirror controls both. So
archives of Node.js and npm are also checked against `digests.toml`, which comes with the buildpack (`make
digests`).
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packhorse import sdk
from packhorse.errors import FormatError, NetworkError
from packhorse.sdk.dataclass import dataclass

# npm's switches as variables, so that the commands in the output stay short.
QUIET = {
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
    "npm_config_progress": "false",
}

# package.json devEngines may name another manager; npm then refuses every command without this.
ALLOW_OTHER_MANAGERS = {"npm_config_force": "true"}

# npm waits 10 and 60 seconds between its three tries: without a network, that is over a minute.
SHORT_RETRIES = {
    "npm_config_fetch_retry_mintimeout": "1000",
    "npm_config_fetch_retry_maxtimeout": "5000",
}

# Node.js and older managers cache compiled modules in a folder that the next build does not have. Writing it
# takes npm a tenth of a second each time. Install scripts get these variables too, build scripts do not.
NO_COMPILE_CACHE = {"NODE_DISABLE_COMPILE_CACHE": "1", "DISABLE_V8_COMPILE_CACHE": "1"}

_SETTING = re.compile(r"([a-z-]+) = (.+)")
_QUOTED = 200


@dataclass(frozen=True, slots=True)
class Registry:
    """The package registry, through the npm client on the build image's PATH.

    Files that the buildpack was staged with, or that a mirror on this machine has, are not downloaded.
    """

    context: sdk.BuildContext

    def offline_versions(self, package: str) -> list[str]:
        """The versions of `package` that are available without the registry."""
        return list(self.context.dependencies.versions(package))

    def versions(self, package: str) -> list[str]:
        """All versions of `package`; raises NetworkError, or NotFoundError if there is no such package."""
        printed = self._npm("view", package, "versions", "--json")
        try:
            said = json.loads(printed)
        except ValueError:
            said = None
        versions = [said] if isinstance(said, str) else said
        if (
            not isinstance(versions, list)
            or not versions
            or not all(isinstance(one, str) for one in versions)
        ):
            raise NetworkError(
                f"the package registry did not answer with the versions of {package}",
                why=f"npm printed: {printed.strip()[:_QUOTED]}" if printed.strip() else "npm printed nothing",
                fix="check the registry set in .npmrc: it, or a proxy before it, answers something else",
            )
        return list(versions)

    def fetch(self, specs: Sequence[str], *, into: Path) -> list[Path]:
        """Downloads one archive for each `name@version` and returns their paths in order.

        npm checks them against the registry, and this buildpack against its own digests. Raises NetworkError,
        NotFoundError, or FormatError if an archive is not the published one.
        """
        found: dict[str, Path] = {}
        for spec in specs:
            name, _, version = spec.rpartition("@")
            path = self.context.dependencies.find(name, version)
            if path is not None:
                self.context.log.detail(f"{spec} is in {path.parent}")
                found[spec] = path
        missing = [spec for spec in specs if spec not in found]
        if missing:
            # One name on each line, whatever .npmrc says.
            options = ("--pack-destination", str(into), "--loglevel=error", "--no-json", "--no-dry-run")
            printed = self._npm("pack", *missing, *options)
            paths = [into / Path(name).name for name in printed.split()]
            if len(paths) != len(missing):
                raise FormatError(f"npm pack did not name the archives of {', '.join(missing)}", why=printed)
            found |= dict(zip(missing, paths, strict=True))

        for spec, path in found.items():
            check_digest(self.context.log, spec, path)
        return [found[spec] for spec in specs]

    def global_config(self) -> str:
        """The path of this client's global settings; another npm has another path."""
        return self.config("globalconfig")["globalconfig"]

    def config(self, *names: str) -> dict[str, str]:
        """Some of this client's settings in the application's directory."""
        said = self._npm("config", "get", *names)
        if len(names) == 1:
            return {names[0]: said.strip()}
        found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        for name in names:
            if name not in found:  # npm 6 prints one at a time
                found |= self.config(name)
        return found

    def settings(self) -> dict[str, str]:
        """The settings from files and variables, without credentials."""
        said = self._npm("config", "ls").splitlines()
        found = (_SETTING.fullmatch(line) for line in said)
        pairs = {match[1]: match[2].strip('"') for match in found if match}
        return {name: value for name, value in pairs.items() if "***" not in value}

    def _npm(self, *args: str) -> str:
        try:
            # NODE_OPTIONS is for the application's Node.js; the client's may not know the option.
            env = {**QUIET, **SHORT_RETRIES, **NO_COMPILE_CACHE, **ALLOW_OTHER_MANAGERS, "NODE_OPTIONS": ""}
            return self.context.capture(["npm", *args], env=env)
        except sdk.CommandFailed as failure:
            from . import failures

            raise failures.npm_error(failure) from failure


def check_digest(log: sdk.Log, spec: str, archive: Path) -> None:
    """Raises FormatError for an archive of `name@version` that is not the published one.

    Logs if the table has the package but not this version. Packages that are not in the table are not
    checked.
    """
    name, _, version = spec.rpartition("@")
    table: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("digests.toml").read_text())
    if name not in table:
        return
    expected = table[name].get(version)
    if expected is None:
        log.detail(
            f"{spec} is not among the digests that packhorse knows; it was checked against the registry's own"
        )
        return
    import base64

    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha512").digest()
    integrity = f"sha512-{base64.b64encode(found).decode()}"
    if integrity != expected:
        raise FormatError(
            f"{spec} is not the published package",
            why=f"its digest is {integrity}\npackhorse knows {expected}",
            fix="the package registry, a mirror or a proxy serves another package under this version: find "
            "out which, and use another",
        )
