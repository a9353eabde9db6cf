"""Secrets that strayed into a text: private keys, access keys, tokens, passwords in addresses. Pure; finds forms, not meaning."""

import re

_FORMS = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{60,}\b"),
    "a GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}\b"),
    "a Slack token": re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{10,}\b"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^/\s:@\"']{1,80}:[^/\s:@\"']{3,80}@"),
    "a password beside its name": re.compile(
        r"(?i)\b(?:password|passwd|secret_key|api_key|access_token)\b[\"']?\s*[:=]\s*[\"']?[^\s\"',}{]{8,}"
    ),
}


def secrets_in(text: str) -> tuple[str, ...]:
    """Return what kinds of secret ``text`` seems to hold, in the order of this module; never the secret itself.

    >>> secrets_in("s3://sky/20261122, postgresql://vera:orange-peel@pg01/sky")
    ('a password in an address',)
    """
    return tuple(kind for kind, form in _FORMS.items() if form.search(text))
