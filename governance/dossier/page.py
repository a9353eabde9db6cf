"""One self-contained HTML page per release. The only module that imports jinja2."""

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from firstlight.digest import write_atomic
from governance.dossier.beside import read_beside
from governance.dossier.register_picture import register_picture
from governance.dossier.view import Document, document, sentence, verdict_of
from governance.errors import EvidenceError
from governance.register import ANSWERED, CONTRADICTED, STATES
from governance.sshsig import NAMESPACE, WAIVER_NAMESPACE

PAGE_FILE = "dossier.html"
BREAK_GLASS = "break-glass"
"""Shown for a verdict where a release went on without its quorum and nobody has ratified that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the head and the foot of the page say."""

    release: str
    model: str
    version: str
    environment: str
    verdict: str
    """``pass``, ``cannot tell`` or ``fail`` of the release as a whole."""
    headline: str
    """One sentence: how the release ended, or what it waits for."""
    trainer: str
    purpose: str
    not_for: str
    data: str
    """What the model was trained on, in a line."""
    made: str
    """When this page was made (UTC)."""
    digests: Mapping[str, str]
    """Name -> sha256, e.g. model, hand-off, evidence, policy."""
    commands: Mapping[str, str]
    """Purpose -> command line, e.g. "go back to the previous version" -> ``firstlight rollback --reason …``."""
    links: Mapping[str, str]
    """Name -> http(s) address, e.g. Prefect run, MLflow version; anything else is shown as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """One stage in the strip at the top."""

    name: str
    verdict: str
    """``pass``, ``cannot tell``, ``fail``, or "" when it was not reached."""
    key_figure: str
    seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture ready for the page."""

    name: str
    caption: str
    uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the page: a question, its evidence documents and its pictures."""

    anchor: str
    title: str
    lead: str
    documents: tuple[Document, ...]
    absent: tuple[str, ...]
    pictures: tuple[Picture, ...]


_SECTIONS = (
    (
        "spectra",
        "What the model sees",
        "Spectra it was not trained on, with its reconstruction, and those it finds strangest.",
        (),
        ("spectra", "strangest"),
    ),
    ("evaluation", "How well it works", "Measured on spectra held out from training.", ("evaluation", "golden"), ("evaluation",)),
    (
        "bias",
        "Where it works less well",
        "Recall and false alarms slice by slice, each against all other spectra, with exact intervals for small numbers.",
        ("bias",),
        ("slice", "bias"),
    ),
    (
        "benchmark",
        "How fast it is",
        "The ways to run it measured in turns on one machine, then candidate and champion, each as it is served.",
        ("backend", "benchmark"),
        ("benchmark",),
    ),
    (
        "canary",
        "How it did on real requests",
        "The new version took a growing share of requests while it was judged; going back had been rehearsed before.",
        ("canary", "rehearsal"),
        ("rollout",),
    ),
    (
        "drift",
        "Whether the sky still looks the same",
        "Live requests against the reference table.",
        ("drift", "previous_drift"),
        ("drift",),
    ),
    ("data", "What the data had to satisfy", "Each expectation, and what was seen.", ("data",), ("data",)),
    (
        "papers",
        "Where it came from",
        "The hand-off, its registration, the software it runs on, and the platform that serves it.",
        ("hand_off", "registration", "environment", "serving"),
        (),
    ),
)
"""Anchor, title, lead sentence, evidence documents, first words of picture names; in reading order, pictures first."""

_OPTIONAL = ("previous_drift", "serving", "golden", "backend", "rehearsal", "environment")
"""Documents whose absence is not worth a sentence of its own."""

_CAPTIONS = {
    "spectra": "Example spectra and their reconstruction",
    "strangest": "The strangest objects by anomaly score",
    "benchmark": "Latency and throughput by batch size",
    "benchmark-backends": "The ways to run it, by batch size",
    "rollout": "The rollout: its share of the requests, the evidence of every measurement against its boundaries, and the error budget",
    "drift": "Reference and live distributions",
}


def render(
    release_folder: Path,
    *,
    facts: Facts,
    stages: Sequence[StageRow],
    pictures: Mapping[str, bytes],
    evidence: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write dossier.html into ``release_folder`` and return its path.

    ``pictures``: name -> PNG or SVG bytes; a name starts with spectra, strangest, slice, benchmark, rollout or drift, and the rest is its caption
    (``slice-recall``). ``evidence``: name -> document; ``risk``, ``register`` and ``sign_off`` get tables of their own. A missing document is said
    to be missing. Papers and the ledger are taken from the folder. Raises EvidenceError when those three are not as governance writes them.
    """
    shown = {name: _picture(name, data) for name, data in pictures.items()}
    sections = tuple(_section(entry, evidence, shown) for entry in _SECTIONS)
    used = {picture.name for section in sections for picture in section.pictures}
    known = {name for entry in _SECTIONS for name in entry[3]} | {"risk", "register", "sign_off"}
    glass = (evidence.get("sign_off") or {}).get("break_glass")
    template = environment().get_template("page.html.j2")
    try:
        html = template.render(
            facts=facts,
            stages=[_looked_through(stage, glass) for stage in stages],
            sections=sections,
            more_pictures=[picture for name, picture in shown.items() if name not in used],
            more_documents=[document(name, evidence[name]) for name in sorted(evidence.keys() - known)],
            risk=evidence.get("risk"),
            waivers=(evidence.get("risk") or {}).get("waivers") or (),
            register=evidence.get("register"),
            register_counts=_counted(evidence.get("register")),
            register_pictures=_register_pictures(evidence.get("register")),
            sign_off=evidence.get("sign_off"),
            glass=glass,
            beside=read_beside(release_folder),
            namespace=NAMESPACE,
            waiver_namespace=WAIVER_NAMESPACE,
        )
    except (UndefinedError, TypeError, AttributeError, LookupError) as problem:
        raise EvidenceError(
            f"risk, register and sign_off must be the documents that governance wrote, found: {problem}; run `firstlight verify`"
        ) from problem
    return write_atomic(release_folder / PAGE_FILE, html.encode())


def _section(
    entry: tuple[str, str, str, tuple[str, ...], tuple[str, ...]], evidence: Mapping[str, Any], pictures: Mapping[str, Picture]
) -> Section:
    anchor, title, lead, names, starts = entry
    absent = tuple(name for name in names if name not in evidence and name not in _OPTIONAL)
    chosen = tuple(picture for start in starts for name, picture in sorted(pictures.items()) if name.split("-")[0].split("_")[0] == start)
    documents = tuple(document(name, evidence[name]) for name in names if name in evidence)
    return Section(anchor=anchor, title=title, lead=lead, documents=documents, absent=absent, pictures=chosen)


def _picture(name: str, data: bytes) -> Picture:
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/svg+xml"
    caption = _CAPTIONS.get(name) or name.replace("-", ": ", 1).replace("-", " ").replace("_", " ").capitalize()
    return Picture(name=name, caption=caption, uri=f"data:{kind};base64,{base64.b64encode(data).decode()}")


def _looked_through(stage: StageRow, glass: Mapping[str, Any] | None) -> StageRow:
    """Say in the strip that a release went on without its quorum: its sign-off passed, but nobody who was asked has said yes."""
    return replace(stage, verdict=BREAK_GLASS) if stage.name == "sign-off" and glass and not glass.get("ratified") else stage


def _counted(register: Mapping[str, Any] | None) -> dict[str, dict[str, int]]:
    """Return function -> state -> how many rows of the register, in the order of the rows."""
    counts: dict[str, dict[str, int]] = {}
    for row in (register or {}).get("rows", ()):
        states = counts.setdefault(row["function"], dict.fromkeys(STATES, 0))
        states[row["state"]] = states.get(row["state"], 0) + 1
    return counts


def _register_pictures(register: Mapping[str, Any] | None) -> list[Picture]:
    if register is None:
        return []
    uri = _picture("register", register_picture(_counted(register))).uri
    return [Picture(name="register", caption="Subcategories by function: answered, contradicted, without evidence yet", uri=uri)]


def environment() -> Environment:
    """Return the template environment: everything escaped, nothing undefined passed over."""
    made = Environment(
        loader=PackageLoader("governance.dossier", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["is_web"] = _is_web
    made.filters["slug"] = lambda verdict: _LOOKS.get(str(verdict), "none")
    made.filters["badge"] = _badge
    made.filters["shell"] = lambda text: shlex.quote(str(text))
    made.filters["sentence"] = sentence
    made.filters["moment"] = lambda text: str(text).replace("T", " ").replace("Z", " UTC")
    made.filters["place"] = _place
    made.filters["brief"] = _brief
    made.filters["verdict_of"] = verdict_of
    made.globals["style"] = Markup((Path(__file__).parent / "style.css").read_text())  # noqa: S704 - our own file, no one else's text
    return made


_LOOKS = {"pass": "pass", "fail": "fail", "cannot tell": "cannot", BREAK_GLASS: "cannot", ANSWERED: "pass", CONTRADICTED: "fail"}
_SIGNS = {"pass": "✓", "fail": "✗", "cannot tell": "?", BREAK_GLASS: "!", ANSWERED: "✓", CONTRADICTED: "✗"}


def _badge(verdict: Any) -> str:
    """The verdict with its sign, so that it is not told by colour alone."""
    text = str(verdict)
    return f"{_SIGNS[text]} {text}" if text in _SIGNS else f"– {text or 'not reached'}"


def _place(evidence: str) -> str:
    """Where on the page the document of a dotted path is shown."""
    name = str(evidence).split(".")[0]
    return {"risk": "risk", "sign_off": "sign-off"}.get(name, f"evidence-{name}")


def _brief(found: str) -> str:
    """A digest by its first digits; anything else as it is."""
    return f"{found[:12]}…" if re.fullmatch(r"[0-9a-f]{64}", str(found)) else str(found)


def _is_web(address: str) -> bool:
    try:
        parts = urlsplit(str(address))
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
