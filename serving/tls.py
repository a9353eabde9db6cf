"""TLS of the gateway's public socket: version 1.2 or later, forward secrecy and authenticated ciphers only, certificates renewed without a restart."""

import logging
import ssl
import stat
from pathlib import Path

from serving.errors import SettingsError
from serving.following import signature

_LOG = logging.getLogger(__name__)
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2 (RFC 9325, 4.2); TLS 1.3 has no others than such."""


class ServerTls:
    """A server's TLS context and the files it is made of."""

    def __init__(self, *, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Load PEM files; with ``client_ca`` every caller must show a certificate that it signed (mTLS). Raises SettingsError."""
        self._certificate, self._key = certificate, key
        self._seen = (signature(certificate), signature(key))
        self.context = _context()
        _load(self.context, certificate, key)
        if client_ca is not None:
            _require(self.context, client_ca)

    def refresh(self) -> bool:
        """Take over a renewed certificate and return whether there was one; connections that stand keep theirs.

        Files that do not fit together (one of the two written, the other not yet) change nothing and are said in the log.
        A changed client CA needs a restart: a context can trust more, never less.
        """
        seen = (signature(self._certificate), signature(self._key))
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            _load(_context(), self._certificate, self._key)
            _load(self.context, self._certificate, self._key)
        except SettingsError as error:
            _LOG.error("the renewed certificate cannot be used; the last good one stays in force", extra={"why": str(error)})
            return False
        _LOG.info("certificate in force", extra={"path": str(self._certificate)})
        return True


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
        if mode & stat.S_IROTH:
            raise SettingsError(f"the private key {key} must not be readable by everybody, found mode {mode:o}: chmod o-r {key}")
        context.load_cert_chain(certificate, key, password=_no_password)
    except FileNotFoundError as error:
        raise SettingsError(
            f"the gateway's certificate {certificate} and key {key} must be files, found {error.strerror}: see docs/access.md"
        ) from None
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            f"the gateway's certificate {certificate} and key {key} must be a PEM pair, found: {why}: see docs/access.md"
        ) from None


def _require(context: ssl.SSLContext, client_ca: Path) -> None:
    try:
        context.load_verify_locations(client_ca)
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"the callers' CA {client_ca} must be PEM certificates, found: {why}: see docs/access.md") from None
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session is not verified again: whoever was trusted once would stay so.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET


def _no_password() -> str:
    raise SettingsError(
        "the gateway's private key must have no passphrase, found one: a service has nobody to ask; protect the file instead"
    )
