"""Public keys of a token issuer (JWK Set, RFC 7517), from an address or a file, followed by a thread and never fetched while a request waits.

When the issuer is away the last keys stay. A key that a token names and nobody knows makes the thread look early, but not more often than
every :data:`LEAST_SECONDS`: callers who invent names cannot make us storm the issuer.
"""

import json
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from firstlight.errors import TransientError

_LOG = logging.getLogger(__name__)
REFRESH_SECONDS = 300.0
"""Between two looks at an address when all is well."""
LEAST_SECONDS = 30.0
"""Between two looks, whoever asks for one."""
_FILE_SECONDS = 2.0
_AWAY_SECONDS = 10.0
_COMPLAIN_SECONDS = 60.0
_TIMEOUT_SECONDS = 5.0
_SIZE_LIMIT = 1 << 18
_MOST_KEYS = 64
_SMALLEST_RSA_BITS = 2048
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": frozenset({"ES256"}), "secp384r1": frozenset({"ES384"}), "secp521r1": frozenset({"ES512"})}

Material = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKey:
    """One key of an issuer and what it may check."""

    material: Material
    algorithms: frozenset[str]
    """By its kind, and only the one that the set names when it names one: a key never checks what it was not made for."""


def parse(data: bytes) -> dict[str, PublicKey]:
    """Return key id -> key of a JWK Set. Keys that cannot check a signature here (symmetric, private, too small, for encryption) are left out.

    Raises ValueError when ``data`` is no JWK Set.
    """
    document = json.loads(data)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it must be a JSON object with a list 'keys'")
    found: dict[str, PublicKey] = {}
    for entry in listed[:_MOST_KEYS]:
        key = _usable(entry) if isinstance(entry, dict) else None
        if key is not None:
            found.setdefault(entry["kid"], key)
    return found


def _usable(entry: dict[str, Any]) -> PublicKey | None:
    named = entry.get("alg")
    signs = entry.get("use", "sig") == "sig" and "verify" in entry.get("key_ops", ["verify"])
    if not isinstance(entry.get("kid"), str) or not signs or "d" in entry or entry.get("kty") == "oct":
        return None
    try:
        material = jwt.PyJWK(entry).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    able = _able(material)
    algorithms = able if named is None else able & {named}
    return PublicKey(material=material, algorithms=algorithms) if algorithms else None


def _able(material: object) -> frozenset[str]:
    if isinstance(material, rsa.RSAPublicKey):
        return _RSA if material.key_size >= _SMALLEST_RSA_BITS else frozenset()
    if isinstance(material, ec.EllipticCurvePublicKey):
        return _CURVES.get(material.curve.name, frozenset())
    return frozenset({"EdDSA"}) if isinstance(material, ed25519.Ed25519PublicKey) else frozenset()


class Jwks:
    """The keys of one address or file. :meth:`start` follows it; use :meth:`close` after that."""

    def __init__(self, where: str, *, ca: Path | None = None, least_seconds: float = LEAST_SECONDS) -> None:
        """``where`` is an https address or a file, ``ca`` PEM certificates that vouch for the address. Reads nothing yet."""
        self.where = where
        self.keys: Mapping[str, PublicKey] = {}
        self.generation = 0
        """Counts changes of the keys: what was checked under an earlier one must be checked again."""
        self.problem = "they were not read yet"
        """Why the keys could not be read the last time; empty when they were."""
        self._remote = where.startswith(("http://", "https://"))
        self._ca, self._least_seconds = ca, least_seconds
        self._asked, self._looked = threading.Event(), -1e9
        self._stopped, self._complained = False, -1e9
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Read the keys now; return whether they could be read. What could not be read changes nothing."""
        self._looked = time.monotonic()
        try:
            keys = parse(self._fetch() if self._remote else _bounded(Path(self.where)))
        except (OSError, ValueError, RecursionError, httpx.HTTPError, TransientError) as error:
            self._complain(f"{type(error).__name__}: {error}")
            return False
        self.problem = ""
        if keys != self.keys and _differ(keys, self.keys):
            self.keys, self.generation = keys, self.generation + 1
            _LOG.info("an issuer's keys are in force", extra={"jwks": self.where, "keys": sorted(keys)})
        return True

    def ask(self) -> None:
        """Somebody named a key that is not here: look early. Returns at once."""
        if time.monotonic() - self._looked >= self._least_seconds:
            self._asked.set()

    def start(self) -> Self:
        """Follow the keys from now on."""
        self._thread = threading.Thread(target=self._follow, name="issuer-keys", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop following."""
        self._stopped = True
        self._asked.set()

    def _complain(self, why: str) -> None:
        """Say what is wrong when it begins, and again every minute while it lasts."""
        if why != self.problem or time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            _LOG.error("an issuer's keys cannot be read; the last ones stay in force", extra={"jwks": self.where, "why": why})
        self.problem = why

    def _follow(self) -> None:
        while True:
            self._asked.clear()
            if self._stopped:
                return
            read = _unharmed(self)
            self._asked.wait(_FILE_SECONDS if not self._remote else REFRESH_SECONDS if read else _AWAY_SECONDS)

    def _fetch(self) -> bytes:
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(self._ca)) if self._ca else True
        # No proxy from the environment, no redirect: the keys come from the address that the access file names, or not at all.
        with (
            httpx.Client(timeout=_TIMEOUT_SECONDS, verify=verify, trust_env=False, follow_redirects=False) as client,
            client.stream("GET", self.where, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise TransientError(f"it must answer 200, got {answer.status_code}")
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > _SIZE_LIMIT:
                    raise TransientError(f"it must answer at most {_SIZE_LIMIT} bytes, got more")
            return body


def _differ(one: Mapping[str, PublicKey], other: Mapping[str, PublicKey]) -> bool:
    """Whether two sets hold other keys; key objects read twice are never the same object."""
    return {name: _numbers(key) for name, key in one.items()} != {name: _numbers(key) for name, key in other.items()}


def _numbers(key: PublicKey) -> tuple[object, frozenset[str]]:
    if isinstance(key.material, ed25519.Ed25519PublicKey):
        return key.material.public_bytes_raw(), key.algorithms
    return key.material.public_numbers(), key.algorithms


def _bounded(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_SIZE_LIMIT + 1)
    if len(data) > _SIZE_LIMIT:
        raise ValueError(f"it must have at most {_SIZE_LIMIT} bytes, found more")
    return data


def _unharmed(source: Jwks) -> bool:
    """A bug in reading one answer must not end the thread that would read the next."""
    try:
        return source.look()
    except Exception:
        _LOG.exception("an issuer's keys could not be followed")
        return False
