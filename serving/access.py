"""Who may ask the gateway what: the one door through which every public request goes.

:meth:`Access.admit` recognises the caller (API key, OIDC token or client certificate), counts the request, and decides by
:func:`serving.grants.decide`. It does no input or output: the access file and the issuers' keys are read by threads of their own, and a new
state is swapped in whole. An access file that turns bad keeps the last good one in force and says so in the log, again and again.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from serving import access_document, access_keys, access_rules
from serving import peer as peers
from serving.access_document import IssuerPart
from serving.access_rules import KnownKey, Rules
from serving.errors import AccessFileError, Refused
from serving.following import Follower, signature
from serving.grants import ANYBODY, Action, Caller, Decision, Grant, Role, decide
from serving.jwks import Jwks
from serving.oidc import KeysAway, TokenRefused, Tokens, Trusted
from serving.peer import NOBODY, Peer
from serving.rates import Rates

__all__ = ["ANYBODY", "Access", "Action", "Caller", "Peer", "Refused", "Role", "own_reader", "unknown_model"]

_LOG = logging.getLogger(__name__)
_REALM = 'Bearer realm="firstlight"'
_LOOK_SECONDS = 1.0
_COMPLAIN_SECONDS = 60.0
_FAILURE_BURST_SECONDS = 60.0


def own_reader(models: Iterable[str], text: str, *, name: str = "canary-replay") -> dict[str, KnownKey]:
    """Return the key of our own release flow, as ``Access(own=)`` takes it: it may use ``models``, and do nothing else.

    The supervisor makes ``text`` anew at every start and leaves it where only its own user reads it. Raises ValueError when it is no key.
    """
    grant = Grant(roles=frozenset({Role.READER}), models=tuple(models))
    return access_rules.own_key(text, Caller(name=name, grants=(grant,), proof="own key"))


def unknown_model(model: str) -> Refused:
    """Return the one answer for a model that is not here, or that the caller may not know to be here."""
    return Refused(f"there is no model {model!r} here", status=404, reason="model")


class Access:
    """One access file in force. Use as a context, or :meth:`start` and :meth:`close` it: a thread follows changes of the file.

    ``admit`` and ``charge`` belong to one thread (the event loop's).
    """

    def __init__(self, path: Path, *, own: Mapping[str, KnownKey] | None = None) -> None:
        """Read ``path``. ``own`` are keys of our own processes. Raises AccessFileError: a gateway never starts with a file it cannot use."""
        self.path = path
        self.problem = ""
        """Why the file as it is now cannot be used; empty when it is in force."""
        self._own = dict(own or {})
        self._seen = signature(path)
        self._follower: Follower | None = None
        self._issuers: dict[tuple[str, Path | None], Jwks] = {}
        self._rules, self._tokens = self._built()
        self._paces, self._failures = Rates(), Rates()
        self._complained = -1e9

    def admit(self, headers: Mapping[str, str], *, action: Action, model: str | None, now: float, peer: Peer | None = None) -> Caller:
        """Return who asks, when they may do ``action`` to ``model`` now (unix seconds).

        ``headers`` have lower-case names; ``model`` None asks something of the gateway as a whole. Raises Refused: 401 for no or a wrong
        credential, 403 for an action outside of the caller's roles, 404 for a model outside of their scope, 413 for an announced body above
        their limit, 429 with Retry-After beyond their rate.
        """
        rules, peer = self._rules, peer or NOBODY
        address = peers.neighbourhood(self.address(headers, peer))
        caller = self._recognise(rules, headers, peer=peer, address=address, now=now)
        self._pace(rules, caller, headers, model=model if action is Action.INFER else None, now=now)
        decision = decide(caller.grants, action, model)
        if decision is Decision.FORBIDDEN:
            raise Refused(
                f"{action} needs another role than {', '.join(sorted(caller.roles)) or 'none'}",
                status=403,
                headers={"www-authenticate": f'{_REALM}, error="insufficient_scope"'},
                reason="role",
                who=caller.name,
            )
        if decision is Decision.HIDDEN:
            hidden = unknown_model(model or "")
            hidden.who = caller.name
            raise hidden
        return caller

    def address(self, headers: Mapping[str, str], peer: Peer) -> str:
        """Return the address of whoever asks: the peer's, or the one that a believed proxy names."""
        return peers.address(peer, headers, self._rules.proxies)

    def charge(self, caller: Caller, *, now: float, rows: int = 0, body_bytes: int = 0) -> None:
        """Charge what could not be known on admission: the rows of a request, the bytes of a body that announced no length."""
        limits = caller.limits
        if rows and limits.rows_per_second is not None:
            self._paces.charge(("rows", caller.name), rows, rate=limits.rows_per_second, now=now)
        if body_bytes and limits.megabytes_per_second is not None:
            self._paces.charge(("bytes", caller.name), body_bytes, rate=limits.megabytes_per_second * (1 << 20), now=now)

    def refresh(self) -> bool:
        """Read the file again when it has changed; return whether a new one is in force. The thread calls it; it never raises."""
        seen = signature(self.path)
        if seen == self._seen:
            self._complain()
            return False
        try:
            self._rules, self._tokens = self._built()
        except AccessFileError as error:
            self.problem, self._complained = str(error), -1e9
            self._seen = seen
            self._complain()
            return False
        self._seen, self.problem = seen, ""
        _LOG.info("access file in force", extra={"path": str(self.path), "clients": len(self._rules.document.clients)})
        return True

    def start(self) -> Self:
        """Follow changes of the file, and of issuers' keys, from now on."""
        for keys in self._issuers.values():
            keys.start()
        self._follower = Follower(self.refresh, name="access-file", seconds=_LOOK_SECONDS)
        return self

    def close(self) -> None:
        """Stop following."""
        for keys in self._issuers.values():
            keys.close()
        if self._follower is not None:
            self._follower.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _recognise(self, rules: Rules, headers: Mapping[str, str], *, peer: Peer, address: str, now: float) -> Caller:
        given = headers.get("authorization")
        if given is None:
            return self._by_certificate(rules, peer, address=address, now=now)
        scheme, _, credential = given.partition(" ")
        if scheme.lower() != "bearer":
            raise self._failed(
                "a credential must be given as 'Authorization: Bearer <key or token>'", kind="none", address=address, now=now
            )
        credential = credential.strip()
        if credential.startswith(access_keys.PREFIX):
            return self._by_key(rules, credential, address=address, now=now)
        return self._by_token(rules, credential, address=address, now=now)

    def _built(self) -> tuple[Rules, Tokens]:
        """Return the rules of the file as it is now; the keys of issuers that stay are kept, whether or not the issuer answers."""
        rules = access_rules.build(access_document.read(self.path), own=self._own)
        before = self._issuers
        self._issuers = {}
        for part in rules.document.issuers:
            place = self._place(part)
            self._issuers[place] = self._issuers.get(place) or before.get(place) or self._follow_keys(*place)
        for place in before.keys() - self._issuers.keys():
            before[place].close()
        trusted = [Trusted(part=part, keys=self._issuers[self._place(part)], base=rules.document.limits) for part in rules.document.issuers]
        return rules, Tokens(trusted)

    def _place(self, part: IssuerPart) -> tuple[str, Path | None]:
        """Where an issuer's keys are; a relative path starts at the access file's folder."""
        here = self.path.absolute().parent
        where = part.jwks if part.jwks.startswith(("http://", "https://")) else str(here / part.jwks)
        return where, part.jwks_ca and here / part.jwks_ca

    def _follow_keys(self, where: str, ca: Path | None) -> Jwks:
        keys = Jwks(where, ca=ca)
        return keys.start() if self._follower is not None else keys

    def _by_key(self, rules: Rules, text: str, *, address: str, now: float) -> Caller:
        known = rules.keys.get(access_keys.id_of(text) or "")
        if known is None or not known.fits(text):
            raise self._failed("this key is not known here", kind="key", address=address, now=now, wrong=True)
        refusal = known.refusal(now)
        if refusal is not None:
            raise self._failed(refusal, kind="key", address=address, now=now, wrong=True, who=known.caller.name)
        return known.caller

    def _by_token(self, rules: Rules, token: str, *, address: str, now: float) -> Caller:
        tokens = self._tokens
        try:
            known = tokens.known(token, now)
            if known is not None:
                return known
            # A signature costs a hundred microseconds: whoever has sent many wrong ones waits before the next is looked at.
            if (waits := self._failures.wait(("token", address), now, burst=_FAILURE_BURST_SECONDS - 1 / rules.failures_per_second)) > 0:
                raise _too_fast("too many wrong credentials came from this address", waits, reason="failures")
            return tokens.check(token, now)
        except TokenRefused as error:
            raise self._failed(str(error), kind="token", address=address, now=now, wrong=True) from None
        except KeysAway as error:
            raise Refused(str(error), status=503, headers={"retry-after": "5"}, reason="issuer") from None

    def _by_certificate(self, rules: Rules, peer: Peer, *, address: str, now: float) -> Caller:
        found = {caller.name: caller for said in peer.certificate if (caller := rules.certificates.get(said)) is not None}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            why = f"this certificate must stand for one client, it names {', '.join(sorted(found))}"
        elif peer.certificate:
            why = "this certificate belongs to no client here: give a key or a token too"
        else:
            why = "a credential is needed here: 'Authorization: Bearer <key or token>'"
        raise self._failed(why, kind="none", address=address, now=now)

    def _failed(self, why: str, *, kind: str, address: str, now: float, wrong: bool = False, who: str = "") -> Refused:
        """Return the refusal of somebody who is not recognised: slowed down when the address has failed too often."""
        rate = self._rules.failures_per_second
        waits = self._failures.take((kind, address), 1, rate=rate, now=now, burst=_FAILURE_BURST_SECONDS)
        if waits > 0:
            return _too_fast("too many wrong credentials came from this address", waits, reason="failures", who=who)
        challenge = f'{_REALM}, error="invalid_token"' if wrong else _REALM
        return Refused(why, status=401, headers={"www-authenticate": challenge}, reason="credential", who=who)

    def _pace(self, rules: Rules, caller: Caller, headers: Mapping[str, str], *, model: str | None, now: float) -> None:
        limits, name, paces = caller.limits, caller.name, self._paces
        announced = _announced(headers)
        if limits.body_bytes is not None and announced > limits.body_bytes:
            raise Refused(
                f"a body of yours must have at most {limits.body_bytes} bytes, got {announced}: send fewer rows at once",
                status=413,
                reason="size",
                who=name,
            )
        if limits.rows_per_second is not None and (waits := paces.wait(("rows", name), now)) > 0:
            raise _too_fast(f"at most {limits.rows_per_second:g} rows a second are yours", waits, who=name)
        if limits.megabytes_per_second is not None and (waits := paces.wait(("bytes", name), now)) > 0:
            raise _too_fast(f"at most {limits.megabytes_per_second:g} megabytes a second are yours", waits, who=name)
        rate = limits.requests_per_second
        if rate is not None and (waits := paces.take(("requests", name), 1, rate=rate, now=now)) > 0:
            raise _too_fast(f"at most {rate:g} requests a second are yours", waits, who=name)
        self.charge(caller, now=now, body_bytes=announced)
        shared = rules.model_rate(model) if model is not None and caller.may_see(model) else None
        if shared is not None and (waits := paces.take(("model", model), 1, rate=shared, now=now)) > 0:
            raise _too_fast(f"this model takes at most {shared:g} requests a second of everybody together", waits, who=name)

    def _complain(self) -> None:
        if self.problem and time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            _LOG.error("the access file cannot be used; the last good one stays in force", extra={"why": self.problem})


def _too_fast(why: str, waits: float, *, reason: str = "rate", who: str = "") -> Refused:
    seconds = max(1, int(-(-waits // 1)))
    return Refused(f"{why}: wait {seconds} s", status=429, headers={"retry-after": str(seconds)}, reason=reason, who=who)


def _announced(headers: Mapping[str, str]) -> int:
    given = headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0
