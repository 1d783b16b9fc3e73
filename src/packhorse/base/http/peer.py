"""What is special about one server: whom to trust for it, what to show it, whether to insist on encryption.

Called by `base.http.pool` and `base.http.client`; `platform.network` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.base.files import is_directory
from packhorse.errors import InputError


@dataclass(frozen=True, slots=True)
class HostConfig:
    """`authorities` are PEM files of certificates trusted beside the usual ones; `client_certificate` is the
    certificate to show, and its key. With `insecure` neither encryption nor a trusted certificate is insisted
    on.
    """

    authorities: tuple[Path, ...] = ()
    client_certificate: tuple[Path, Path] | None = None
    insecure: bool = False

    @classmethod
    def read(cls, directory: Path, *, insecure: bool = False) -> Self:
        """What a directory of certificates has, as docker and containers know it: `*.crt` are authorities,
        `NAME.cert` and `NAME.key` what is shown. Raises InputError.
        """
        try:
            names = sorted(directory.iterdir())
        except OSError as error:
            raise InputError(f"{directory} cannot be read", why=error.strerror or str(error)) from error
        pair = None
        for path in names:
            if path.suffix not in (".cert", ".key"):
                continue
            certificate, key = path.with_suffix(".cert"), path.with_suffix(".key")
            for needed in (certificate, key):
                if needed not in names:
                    raise InputError(
                        f"{directory} has {path.name} without {needed.name}",
                        why="a certificate to show to a registry needs its key, and the reverse",
                    )
            pair = pair or (certificate, key)
        return cls(tuple(path for path in names if path.suffix == ".crt"), pair, insecure)


DEFAULT_HOST_CONFIG = HostConfig()

HostConfigs = Callable[[str], HostConfig]
"""What is special about the server at HOST or HOST:PORT, as a URL has it."""


def find_certificates(host: str, directories: Sequence[Path]) -> Path | None:
    """The first of some certs.d directories that has one for a server; a port 443 may be left out."""
    names = [host, host.removesuffix(":443")] if host.endswith(":443") else [host]
    if "/" in host or host in ("", ".", ".."):
        return None
    return next((d / name for d in directories for name in names if is_directory(d / name)), None)


def default_host_config(host: str) -> HostConfig:
    """No server is special."""
    return DEFAULT_HOST_CONFIG
