"""Who is at the other end of a connection: its address, and what its certificate says when it showed one (mTLS).

TLS has verified the certificate against the client CA by then; here it is only read. What it says is a set of texts such as
``dns:portal.lab`` and ``subject:CN=portal,O=Lab``, which the access file's ``certificates`` name.
"""

import asyncio
import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """The other end of one connection."""

    address: str = ""
    """IP address of whoever opened the connection; a reverse proxy's when there is one."""
    certificate: frozenset[str] = frozenset()
    """What its certificate says; empty without one."""


NOBODY = Peer()


def of(transport: asyncio.BaseTransport) -> Peer:
    """Return who is at the other end of ``transport``; ask once a connection, a certificate takes 50 µs to read.

    Over TLS with a client CA the handshake has ended by then, so the certificate is there and verified.
    """
    name = transport.get_extra_info("peername")
    tls = transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    # A socket for both families names IPv4 callers ::ffff:192.0.2.1; as IPv6 they would all be one neighbourhood.
    here = str(name[0]).removeprefix("::ffff:") if isinstance(name, tuple) and name else ""
    return Peer(address=here, certificate=identities(der) if der else frozenset())


def identities(der: bytes) -> frozenset[str]:
    """Return what the certificate ``der`` says of its holder: DNS names, URIs and mail addresses (subject alternative names), subject, sha256."""
    from cryptography import x509

    fingerprint = f"sha256:{hashlib.sha256(der).hexdigest()}"
    try:
        certificate = x509.load_der_x509_certificate(der)
        said = {fingerprint, f"subject:{certificate.subject.rfc4514_string()}"}
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset(said)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        # OpenSSL vouches for it, yet it cannot be read whole: then it is known by its bytes alone.
        return frozenset({fingerprint})
    said |= {f"dns:{name.lower()}" for name in names.get_values_for_type(x509.DNSName)}
    said |= {f"uri:{name}" for name in names.get_values_for_type(x509.UniformResourceIdentifier)}
    said |= {f"email:{name}" for name in names.get_values_for_type(x509.RFC822Name)}
    return frozenset(said)


def address(peer: Peer, headers: Mapping[str, str], proxies: Sequence[Network]) -> str:
    """Return the caller's address: the peer's, or behind believed proxies the last one in X-Forwarded-For that is not a proxy's."""
    if not proxies or not _is_in(peer.address, tuple(proxies)):
        return peer.address
    for hop in reversed([part.strip() for part in headers.get("x-forwarded-for", "").split(",")]):
        if not _is_address(hop):
            break
        if not _is_in(hop, tuple(proxies)):
            return hop
    return peer.address


def neighbourhood(address: str) -> str:
    """Return what is counted as one caller: an IPv4 address, or the /64 of an IPv6 address, which one household owns whole."""
    if ":" not in address:
        return address[:64]
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address[:64]


@lru_cache(maxsize=4096)
def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
