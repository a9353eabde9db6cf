"""The access file, made ready for the request's path: every look-up is one dictionary, every caller is built already."""

import hmac
import ipaddress
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from serving import access_keys
from serving.access_document import AccessDocument, ClientPart, KeyPart
from serving.grants import Caller, Grant
from serving.peer import Network


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownKey:
    """One API key as it is looked up."""

    digest: bytes
    caller: Caller
    expires: float = math.inf
    """Unix time from which on it counts no more."""
    revoked: float = math.inf

    def fits(self, text: str) -> bool:
        """Return whether ``text`` is this key, in a time that does not tell how nearly."""
        return hmac.compare_digest(access_keys.digest(text), self.digest)

    def refusal(self, now: float) -> str | None:
        """Say why the key counts no more at ``now``; None when it does. Only its holder is told: compare first."""
        if now >= self.revoked:
            return f"this key was revoked on {_day(self.revoked)}: ask for a new one"
        if now >= self.expires:
            return f"this key expired on {_day(self.expires)}: ask for a new one"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What an access file says."""

    document: AccessDocument
    keys: Mapping[str, KnownKey]
    """By id."""
    certificates: Mapping[str, Caller]
    """By what a certificate says of its holder."""
    proxies: tuple[Network, ...] = ()
    model_rates: tuple[tuple[Grant, float], ...] = field(default=())
    """Pattern (as the scope of a grant without roles) and requests per second of everybody together."""

    @property
    def failures_per_second(self) -> float:
        """Wrong credentials that one address may try in the long run."""
        return self.document.failures_per_minute / 60

    def model_rate(self, model: str) -> float | None:
        """Return how many requests a second everybody together may ask of ``model``: the smallest that covers it."""
        return min((rate for scope, rate in self.model_rates if scope.covers(model)), default=None)


def build(document: AccessDocument, *, own: Mapping[str, KnownKey] | None = None) -> Rules:
    """Return the rules of ``document``; ``own`` are keys of our own processes, which stand in no file."""
    keys = {
        key.id: _known(key, caller) for client in document.clients for key in client.keys for caller in (_caller(client, document, key),)
    }
    certificates = {
        certificate.identity: Caller(
            name=client.name, grants=(client.grant,), limits=client.limits.over(document.limits), proof="certificate"
        )
        for client in document.clients
        for certificate in client.certificates
    }
    return Rules(
        document=document,
        keys={**keys, **(own or {})},
        certificates=certificates,
        proxies=_networks(document.proxies),
        model_rates=tuple((Grant(frozenset(), (part.model,)), part.requests_per_second) for part in document.models),
    )


def own_key(text: str, caller: Caller) -> dict[str, KnownKey]:
    """Return the key ``text`` of one of our own processes as :func:`build` takes it. Raises ValueError when it is none."""
    identifier = access_keys.id_of(text)
    if identifier is None:
        raise ValueError("a key of our own must have the form fl_<id>_<secret>, got something else")
    return {identifier: KnownKey(digest=access_keys.digest(text), caller=caller)}


def _caller(client: ClientPart, document: AccessDocument, key: KeyPart) -> Caller:
    return Caller(name=client.name, grants=(client.grant,), limits=client.limits.over(document.limits), proof=f"key {key.id}")


def _known(key: KeyPart, caller: Caller) -> KnownKey:
    return KnownKey(digest=bytes.fromhex(key.sha256), caller=caller, expires=_unix(key.expires), revoked=_unix(key.revoked))


def _unix(moment: datetime | None) -> float:
    return math.inf if moment is None else moment.timestamp()


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)
