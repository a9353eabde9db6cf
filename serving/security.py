"""Headers that every public answer carries. The gateway is an API: no page of it is to be shown, framed, cached or read by another site.

There is no CORS header, so browsers let no foreign site read an answer, and a preflight request (OPTIONS) is answered like any unknown one.
"""

HEADERS: tuple[tuple[str, str], ...] = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
"""On every answer, errors included (OWASP, REST Security Cheat Sheet)."""
STRICT_TRANSPORT: tuple[str, str] = ("strict-transport-security", "max-age=31536000")
"""Also, over TLS: browsers keep to https for a year."""
CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
"""Headers that never go further than the gateway."""


def headers(*, tls: bool) -> tuple[tuple[str, str], ...]:
    """Return the headers of every answer on a socket with or without TLS."""
    return (*HEADERS, STRICT_TRANSPORT) if tls else HEADERS
