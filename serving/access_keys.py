"""API keys: ``fl_<id>_<secret>``. The id is public, the secret is 256 random bits, and only a sha256 of the whole key is ever stored.

A slow hash (argon2, bcrypt) protects secrets that people invent and that can be guessed; nobody guesses 256 random bits, however fast the hash.
So sha256 is enough, and a key is checked in microseconds on every request instead of once a session. The prefix lets secret scanners find a key
that was committed by mistake: ``fl_[a-z2-7]{10}_[A-Za-z0-9_-]{43}``.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

PREFIX = "fl_"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_CHARACTERS = 10
_SECRET_BYTES = 32
_KEY = re.compile(r"fl_([a-z2-7]{10})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """A key that was just made: the only moment at which its text exists."""

    id: str
    text: str
    sha256: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r})"


def make() -> NewKey:
    """Return a new key from the system's source of randomness."""
    identifier = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARACTERS))
    text = f"{PREFIX}{identifier}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewKey(id=identifier, text=text, sha256=digest(text).hex())


def id_of(text: str) -> str | None:
    """Return the public id in a key, or None when ``text`` has not the form of one."""
    found = _KEY.fullmatch(text)
    return found.group(1) if found else None


def digest(text: str) -> bytes:
    """Return the 32 bytes under which a key is known."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
