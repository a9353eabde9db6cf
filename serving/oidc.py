"""OpenID Connect access tokens (RFC 9068 on RFC 7519): is this token one of an issuer we trust, for us, now, and who holds it?

``pyjwt`` checks the signature, issuer, audience and that required claims are there. What is allowed is decided before it is asked: the
algorithm by the access file and by the key's own kind (so no ``none``, no HMAC with a public key), the key by its id among the issuer's own
keys (``jku``, ``x5u`` and ``jwk`` in a token are never looked at), the token type (an ID token is no access token). Times are checked here,
at the moment of the request, because a token that was checked once is remembered and not checked again by signature.
"""

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from firstlight.errors import RefusedError, TransientError
from serving.access_document import IssuerPart, LimitsPart
from serving.grants import Caller, Grant
from serving.jwks import Jwks

_REQUIRED = ("iss", "sub", "aud", "exp", "iat")
_SIZE_LIMIT = 16_384
_NAME = re.compile(r"[\x21-\x7e]{1,96}")
_MOST_REMEMBERED = 10_000
_MOST_GROUPS = 1000
_UNTIMED = {"require": list(_REQUIRED), "verify_exp": False, "verify_nbf": False, "verify_iat": False}


class TokenRefused(RefusedError):
    """The token does not count; the message says why and repeats nothing of it."""


class KeysAway(TransientError):
    """No key of the issuer is known yet; the same token may count later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trusted:
    """One issuer with its keys."""

    part: IssuerPart
    keys: Jwks
    base: LimitsPart
    """Limits of everybody, where the issuer says nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Remembered:
    caller: Caller
    claims: Mapping[str, Any]
    trusted: Trusted
    generation: int


class Tokens:
    """Recognises bearers of tokens, each token once. Not for several threads at once."""

    def __init__(self, issuers: Sequence[Trusted] = ()) -> None:
        """Trust ``issuers``."""
        self._issuers = {trusted.part.issuer: trusted for trusted in issuers}
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._remembered)

    def known(self, token: str, now: float) -> Caller | None:
        """Return who holds a token that was checked before, or None. Raises TokenRefused when its time is over."""
        place = _place(token)
        found = self._remembered.get(place)
        if found is None or found.generation != found.trusted.keys.generation:
            return None
        check_times(found.claims, now=now, leeway=found.trusted.part.leeway_seconds)
        self._remembered.move_to_end(place)
        return found.caller

    def check(self, token: str, now: float) -> Caller:
        """Return who holds ``token``. Raises TokenRefused, or KeysAway while the issuer's keys were never read."""
        if not self._issuers:
            raise TokenRefused("no tokens are taken here, and this is no key")
        header, trusted = self._unverified(token)
        generation = trusted.keys.generation
        claims = verify(token, header, trusted, now=now)
        caller = _caller(claims, trusted)
        self._remembered[_place(token)] = _Remembered(caller=caller, claims=claims, trusted=trusted, generation=generation)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return caller

    def _unverified(self, token: str) -> tuple[Mapping[str, Any], Trusted]:
        """Return the header, and the issuer that the token claims to come from; nothing of it is true yet."""
        if len(token) > _SIZE_LIMIT or not token.isascii():
            raise TokenRefused(f"a token must be at most {_SIZE_LIMIT} ASCII characters")
        try:
            said = jwt.api_jws.decode_complete(token, options={"verify_signature": False})
            claims = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise TokenRefused("this is neither a key nor a token that is known here") from None
        issuer = claims.get("iss")
        trusted = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if trusted is None:
            raise TokenRefused("the token's issuer is not trusted here")
        return said["header"], trusted


def verify(token: str, header: Mapping[str, Any], trusted: Trusted, *, now: float) -> Mapping[str, Any]:
    """Return the claims of ``token`` when everything about it holds. Raises TokenRefused or KeysAway."""
    part, algorithm, kind = trusted.part, header.get("alg"), header.get("typ")
    if algorithm not in part.algorithms:
        raise TokenRefused(f"the token must be signed with {', '.join(part.algorithms)}")
    if not isinstance(kind, str) or _plain_type(kind) not in {_plain_type(allowed) for allowed in part.token_types}:
        raise TokenRefused(f"the token must be an access token (typ {' or '.join(part.token_types)})")
    if "crit" in header or "b64" in header:
        raise TokenRefused("the token asks for an extension that is not known here")
    name = header.get("kid")
    key = trusted.keys.keys.get(name) if isinstance(name, str) else None
    if key is None:
        trusted.keys.ask()
        if not trusted.keys.keys:
            raise KeysAway(f"the keys of issuer {part.name} are not here yet: try again in a moment")
        raise TokenRefused("the token must be signed by a key that its issuer publishes")
    if algorithm not in key.algorithms:
        raise TokenRefused("the token must be signed with the algorithm that its key is for")
    try:
        claims = jwt.decode(token, key.material, algorithms=[algorithm], audience=part.audience, issuer=part.issuer, options=_UNTIMED)  # type: ignore[arg-type]
    except jwt.MissingRequiredClaimError as error:
        raise TokenRefused(f"the token must have the claims {', '.join(_REQUIRED)}, one is missing: {error.claim}") from None
    except jwt.InvalidAudienceError:
        raise TokenRefused(f"the token must be for the audience {part.audience}") from None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise TokenRefused("the token's signature does not hold") from None
    check_times(claims, now=now, leeway=part.leeway_seconds)
    for claim, value in part.required.items():
        if claims.get(claim) != value:
            raise TokenRefused(f"the token must have {claim} as the access file asks for")
    return claims


def check_times(claims: Mapping[str, Any], *, now: float, leeway: float) -> None:
    """Return when the token counts at ``now`` (unix seconds), give or take ``leeway`` seconds. Raises TokenRefused."""
    expires, issued, begins = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    for moment in (expires, issued, begins):
        if not isinstance(moment, int | float) or isinstance(moment, bool) or not math.isfinite(moment):
            raise TokenRefused("the token's times must be numbers")
    assert expires is not None
    assert issued is not None
    if now >= expires + leeway:
        raise TokenRefused("the token has expired: get a new one from its issuer")
    if now < begins - leeway or now < issued - leeway:
        raise TokenRefused("the token counts only later: is a clock wrong?")


def _caller(claims: Mapping[str, Any], trusted: Trusted) -> Caller:
    part = trusted.part
    who = claims.get(part.name_claim)
    if not isinstance(who, str) or not _NAME.fullmatch(who):
        raise TokenRefused(f"the token must name its holder in {part.name_claim}, printable and without spaces")
    mine = _groups(claims, part.groups_claim)
    grants = tuple(entry.grant for entry in part.groups if entry.group == "*" or entry.group in mine)
    return Caller(name=f"{part.name}:{who}", grants=_merged(grants), limits=part.limits.over(trusted.base), proof=f"token of {part.name}")


def _merged(grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
    return tuple(dict.fromkeys(grants))


def _groups(claims: Mapping[str, Any], path: Sequence[str]) -> frozenset[str]:
    """Return the groups at ``path``: a list of texts, or one text with spaces between them, as ``scope`` is; nothing when there is neither."""
    found: Any = claims
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        found = found.split()
    if not isinstance(found, list):
        return frozenset()
    return frozenset(group for group in found[:_MOST_GROUPS] if isinstance(group, str))


def _plain_type(kind: str) -> str:
    """``typ`` is a media type: case does not count, and ``application/`` may be left out (RFC 7515, 4.1.9)."""
    return kind.lower().removeprefix("application/")


def _place(token: str) -> bytes:
    """Tokens are remembered by their hash: memory never holds a credential longer than its request."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
