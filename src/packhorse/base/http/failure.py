"""What urllib3 and the layers below it raise, in words: what happened, why, what to do.

Called by `base.http.pool`.
"""

from __future__ import annotations

import ssl

from urllib3 import exceptions

from packhorse.base.http.message import (
    BrokenConnection,
    ReadTimeout,
    UntrustedCertificate,
    host_of,
    is_loopback,
    sanitize,
    split_url,
)
from packhorse.base.http.settings import Settings
from packhorse.errors import NetworkError

# OpenSSL's codes (x509_vfy.h) for what no other bundle would mend.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def explain(error: Exception, url: str, settings: Settings) -> NetworkError:
    """The error to raise for `error`: BrokenConnection for what may pass, NetworkError for what will not."""
    host = host_of(url)
    if isinstance(error, exceptions.ProxyError):
        return _proxy_error(error.original_error, host, settings)
    if isinstance(error, exceptions.SSLError):
        return _tls_error(error.args[0] if error.args else error, host, settings)
    if isinstance(error, exceptions.NewConnectionError | exceptions.ConnectTimeoutError):
        return _unreachable_error(error, host, settings)
    if isinstance(error, exceptions.ReadTimeoutError):
        return ReadTimeout(
            f"{host} fell silent",
            why=f"nothing came for {settings.read_timeout:g} seconds",
            fix="see what listens there, and try again",
        )
    if isinstance(error, ValueError):  # its text is left out: it may hold a header, and that a password
        return NetworkError(
            f"a request to {host} cannot be sent", why="its address or a header has impossible characters"
        )
    if isinstance(error, exceptions.ProtocolError) and "Tunnel connection failed" in str(error):
        return _proxy_error(error, host, settings)
    return BrokenConnection(f"the connection to {host} was cut", why=_reason(error))


def _reason(error: BaseException) -> str:
    """The system's own words: urllib3 wraps them several times, as causes or as last arguments."""
    last = error.args[-1] if error.args else None
    inner = error.__cause__ or (last if isinstance(last, BaseException) else None)
    if inner is not None:
        return _reason(inner)
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return sanitize(words)


def _unreachable_error(error: exceptions.HTTPError, host: str, settings: Settings) -> NetworkError:
    if isinstance(error, exceptions.NameResolutionError):
        return NetworkError(
            f"the host {host} is not known",
            why=f"its name could not be resolved: {_reason(error)}",
            fix="check the spelling, and the network and DNS of this machine",
        )
    if isinstance(error, exceptions.NewConnectionError):
        return NetworkError(
            f"{host} cannot be reached", why=_reason(error), fix="check that it runs and listens on this port"
        )
    return NetworkError(
        f"{host} cannot be reached",
        why=f"no connection within {settings.connect_timeout:g} seconds",
        fix="check the network, and HTTPS_PROXY if this machine needs a proxy",
    )


def _proxy_error(error: BaseException, host: str, settings: Settings) -> NetworkError:
    return NetworkError(
        f"the proxy {host_of(settings.proxy)} does not lead to {host}",
        why=_reason(error),
        fix="check HTTPS_PROXY, or add the host to NO_PROXY if it is reached without a proxy",
    )


def _tls_error(error: BaseException, host: str, settings: Settings) -> NetworkError:
    if not isinstance(error, ssl.SSLCertVerificationError):
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return NetworkError(
                f"{host} does not speak TLS on this port",
                why="only this machine itself is spoken to without encryption",
                fix=f"check the port, give it a certificate, or name it by --insecure-registry {host}",
            )
        return BrokenConnection(f"the encrypted connection to {host} broke", why=_reason(error))
    why = error.verify_message
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        fix = "use the name that the certificate is for"
    elif error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        fix = "check the clock of this machine; if it is right, the certificate must be renewed"
    else:
        fix = (
            "put the PEM file of the authority that signed it, as ca.crt, into "
            f"/etc/containers/certs.d/{host}/ or a directory for --cert-dir; or "
        )
        if settings.ca_bundle:
            why += f"; trusted is what {settings.ca_variable} names: {settings.ca_bundle}"
            fix += f"add it to that file, or unset {settings.ca_variable}"
        else:
            why += "; trusted are the certificates of this system"
            fix += "name it by SSL_CERT_FILE"
    if is_loopback(split_url(f"//{host}").hostname or ""):
        fix += f"; or waive that on this machine: --insecure-registry {host}"
    return UntrustedCertificate(f"the certificate of {host} is not trusted", why=why, fix=fix)
