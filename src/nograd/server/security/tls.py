"""TLS: a server's certificate and key, read once for HTTP and gRPC, with errors that contain the file name."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nograd.errors import ConfigError
from nograd.server.telemetry.logs import event

__all__ = ["Tls", "reload_certificate"]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a server's TLS settings."""

    cert: str
    """The certificate chain: the certificate, followed by intermediate ones."""

    key: str
    """Its private key, without a password."""

    ca: str = ""
    """Authorities of client certificates. If set, clients without a certificate are rejected; empty: clients need none."""

    def context(self) -> ssl.SSLContext:
        """Return the SSL context for HTTP sockets.

        Raises:
            ConfigError: a file cannot be read or is invalid, or the key does not match the certificate.
        """
        self.read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        self.load(context)
        if self.ca:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError as error:
                raise ConfigError(f"tls_ca {self.ca!r} is not a list of PEM certificates: {_reason(error)}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Load certificate and key into a context. New connections of a context in use get them, too.

        Raises:
            ConfigError: as for `context`.
        """
        try:
            context.load_cert_chain(self.cert, self.key, password=self._refuse_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"the key in {self.key!r} does not match the certificate in {self.cert!r}") from None
            raise ConfigError(f"{self.cert!r} and {self.key!r} are not a valid certificate and key: {_reason(error)}") from None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return key, certificate and authorities (or None), in the form for gRPC.

        Raises:
            ConfigError: a file cannot be read, or is not PEM of the expected kind.
        """
        cert, key = _pem("tls_cert", self.cert, b"CERTIFICATE"), _pem("tls_key", self.key, b"PRIVATE KEY")
        return key, cert, _pem("tls_ca", self.ca, b"CERTIFICATE") if self.ca else None

    def _refuse_password(self) -> NoReturn:
        raise ConfigError(
            f"the key in {self.key!r} has a password, which a server cannot prompt for; "
            f"write a key without one: openssl pkey -in {self.key} -out server.key"
        )


def reload_certificate(tls: Tls, context: ssl.SSLContext) -> None:
    """Reload certificate and key; if they cannot be read, the current ones stay."""
    try:
        tls.context()  # check first: a failed load could leave a key that does not match the certificate
        tls.load(context)
    except ConfigError as error:
        event("certificate_not_reloaded", logging.ERROR, error=str(error))
        return
    event("certificate_reloaded", file=tls.cert)


def _pem(setting: str, file: str, kind: bytes) -> bytes:
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} cannot be read from {file!r}: {error.strerror or error}") from None
    if b"-----BEGIN " not in text or kind + b"-----" not in text:
        raise ConfigError(f"{setting} is {file!r}, which contains no {kind.decode()} in PEM ('-----BEGIN ...')")
    return text


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
