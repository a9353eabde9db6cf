"""The entry of a release in the lab's decision log (appendix H), as Markdown: the lab's fields and those of its template.

The log supersedes and never edits: a later decision about the same model names this one. What stands in the entry is quoted from the evidence;
Markdown and HTML in it are escaped.
"""

import re
from collections.abc import Sequence

from governance.papers.decision import decision_of, waivers_of
from governance.papers.facts import NO_EVIDENCE, Claim, PaperFacts, line, words

Entries = Sequence[tuple[str, Claim]]
"""Label and value, one a line."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def make(facts: PaperFacts) -> bytes:
    """Return decision-log.md. Raises EvidenceError when no document names the release."""
    decided = decision_of(facts)
    model = facts.first("hand_off.name", "subject.model", "release.model")
    number = facts.claim("subject.decision_id")
    where = facts.first("subject.environment", "release.environment")
    head = [
        ("Decision ID", number),
        ("Date", decided.day),
        ("Decision Maker", decided.makers),
        ("Category", Claim(value="Model approval")),
        ("Status", decided.status),
        ("Change", facts.claim("subject.change_id")),
    ]
    parts: list[tuple[str, Entries]] = [
        ("Context", _context(facts)),
        ("Decision", [("Decision", decided.sentence), ("Residual risk", decided.treatment)]),
        ("Rationale", [("Reasons", decided.reasons), ("Risk", facts.claim("risk.summary")), ("Conditions", decided.conditions)]),
        ("Alternatives Considered", _alternatives(facts)),
        ("Outcomes", [(name.capitalize(), facts.claim(f"{name}.summary")) for name in ("canary", "promotion", "drift", "release")]),
        ("Impact", [*_impact(facts), ("Looked at again", decided.look_again)]),
        (
            "Framework Alignment",
            [("Register", facts.claim("register.summary")), ("Scenarios", _subcategories(facts))],
        ),
        ("Related", _related(facts)),
    ]
    version = facts.claim("registration.version")
    text = [f"## {_escaped(f'{number}: model {model} version {version} to {where}')}", ""]
    text += [f"**{name}:** {_value(claim)}  " for name, claim in head]
    for title, entries in parts:
        text += ["", f"### {title}", "", *(f"- **{_escaped(name)}:** {_value(claim)}{_source(claim)}" for name, claim in entries)]
    return ("\n".join(text) + "\n").encode()


def _context(facts: PaperFacts) -> Entries:
    return [
        ("Asked by", facts.phrase("{} <{}>", "hand_off.trainer.name", "hand_off.trainer.email")),
        ("Purpose", facts.claim("hand_off.purpose")),
        ("Not for", facts.claim("hand_off.not_for")),
        ("Trained on", facts.phrase("{}, sha256 {}", "hand_off.data.description", "hand_off.data.sha256")),
        ("Evidence judged", facts.phrase("digest {}", "subject.evidence_digest")),
    ]


def _alternatives(facts: PaperFacts) -> Entries:
    """What else was measured: keeping the version before, and the other ways to run this one."""
    others = [
        (f"Run it with {line(str(row.get('backend')))}", Claim(value=words(row.get("why_not")), sources=("backend.backends",)))
        for row in facts.rows("backend.backends")
        if row.get("why_not")
    ]
    kept = facts.phrase("compared with version {} on real requests: {}", "canary.rollout.stable", "canary.summary")
    return [("Keep what serves", kept), ("Speed against what serves", facts.claim("benchmark.summary")), *others]


def _impact(facts: PaperFacts) -> Entries:
    return [
        ("Residual risk", facts.phrase("{} of 25, {}", "risk.overall", "risk.band")),
        ("Data class", facts.claim("hand_off.data_class")),
        ("Way back", facts.claim("rehearsal.summary")),
    ]


def _subcategories(facts: PaperFacts) -> Claim:
    named = sorted({words(one) for row in facts.rows("risk.definitions") for one in row.get("nist") or ()})
    return Claim(value=", ".join(named) or NO_EVIDENCE, sources=("risk.definitions",))


def _related(facts: PaperFacts) -> Entries:
    named = [
        (name, Claim(value=f"sha256 {digest}"))
        for name, digest in sorted(facts.digests.items())
        if name in ("policy.yaml", "approvers.yaml", "evidence/risk.json", "evidence/sign_off.json")
    ]
    waived = [
        (f"Waiver {line(str(row.get('id')))}", Claim(value=line(f"{row.get('scenario')} until {row.get('until')}")))
        for row in waivers_of(facts)
    ]
    return [("Supersedes", facts.claim("release.supersedes")), *waived, *named]


def _value(claim: Claim) -> str:
    return _escaped("; ".join(words(item) for item in claim.value) if isinstance(claim.value, list) else str(claim))


def _source(claim: Claim) -> str:
    return f" ({', '.join(f'`{source}`' for source in claim.sources)})" if claim.sources else ""


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
