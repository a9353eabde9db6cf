"""A made-up release with realistic evidence, people with keys, and the facts of a sign-off."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from firstlight.digest import sha256_bytes
from governance.approvers import Approver, ApproverKey, Approvers, write_approvers
from governance.dossier.rollout_picture import Ending, rollout_picture
from governance.evidence import write_evidence
from governance.risk import RiskPolicy, assess, load_scenarios
from governance.signoff import judge
from governance.statement import Decision, Statement, collect, draft, sign_statement, store
from governance.subject import Person, Requirement, Subject, open_for_sign_off
from tests.governance.described import complete

NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
MODEL_BYTES = b"not really a model"


def _row(dimension: str, name: str, metric: str, n: int, value: float | None, half: float, verdict: str, rest: float) -> dict[str, Any]:
    low, high = (None, None) if value is None else (max(0.0, value - half), min(1.0, value + half * 0.7))
    keys = ("dimension", "slice", "metric", "n", "value", "low", "high", "verdict", "rest_value")
    return dict(zip(keys, (dimension, name, metric, n, value, low, high, verdict, rest), strict=True))


SLICES = [
    _row("S/N", "0 to 1", "recall", 41, 0.78, 0.15, "pass", 0.91),
    _row("S/N", "1 to 3", "recall", 88, 0.89, 0.08, "pass", 0.90),
    _row("S/N", "above 3", "recall", 120, 0.94, 0.05, "pass", 0.86),
    _row("class", "GALAXY", "recall", 150, 0.92, 0.05, "pass", 0.88),
    _row("class", "QSO", "recall", 61, 0.84, 0.10, "pass", 0.92),
    _row("class", "STAR", "recall", 38, 0.95, 0.12, "pass", 0.89),
    _row("petal", "0", "recall", 4, None, 0, "cannot tell", 0.90),
    _row("petal", "3", "recall", 26, 0.88, 0.15, "pass", 0.90),
    _row("redshift", "0 to 0.4", "recall", 96, 0.91, 0.07, "pass", 0.89),
    _row("redshift", "1.6 to 3.5", "recall", 50, 0.80, 0.13, "pass", 0.91),
]

EVIDENCE: dict[str, dict[str, Any]] = {
    "hand_off": {
        "verdict": "pass",
        "summary": "6 files, all digests match, no code in the archive",
        "reasons": [],
        "name": "desi-vae",
        "trainer": {"name": "Cecilia Payne", "email": "cecilia@lab.example"},
        "purpose": "flag unusual spectra for a person to look at",
        "not_for": "redshifts; any automatic decision",
        "data_class": "Public-External",
        "data": {"uri": "s3://sky/20261122", "sha256": "ab" * 32, "spectra": 2000, "description": "synthetic sky, night 20261122"},
        "git_commit": "0f3c9d1",
        "environment": {"python": "3.11.2", "torch": "2.13.0", "platform": "linux"},
        "created": "2026-11-22T23:10:00+00:00",
        "files": {"model.pt2": {"bytes": 18, "sha256": sha256_bytes(MODEL_BYTES)}},
        "recipe": {"split_by": "group", "epochs": 30},
        "model": {
            "inputs": [{"name": "flux", "dtype": "float32", "shape": [-1, 7781], "unit": "1e-17 erg/s/cm2/Angstrom"}],
            "outputs": [{"name": "anomaly_score", "dtype": "float32", "shape": [-1], "meaning": "how unusual for its S/N"}],
            "roles": {"score": "anomaly_score"},
        },
    },
    "golden": {
        "verdict": "pass",
        "summary": "16 rows replayed, worst error 2e-6",
        "reasons": [],
        "rows": 16,
        "worst": {"anomaly_score": 2e-6},
    },
    "data": {
        "verdict": "pass",
        "summary": "reference: 3 of 4 expectations hold over 1980 rows",
        "reasons": ["fail (advice): ebv: at most 0.3; largest 0.41"],
        "division": {"held_out_rows": 400, "training_rows": 1580, "held_out_in_training": 0},
        "expectations": [
            {
                "column": "",
                "rule": "at least 200 rows",
                "severity": "critical",
                "observed": "1980 rows",
                "unexpected": None,
                "verdict": "pass",
            },
            {"column": "z", "rule": "0 to 7", "severity": "critical", "observed": "0.01 to 3.4", "unexpected": 0, "verdict": "pass"},
            {
                "column": "snr",
                "rule": "not missing",
                "severity": "critical",
                "observed": "none missing",
                "unexpected": 0,
                "verdict": "pass",
            },
            {
                "column": "ebv",
                "rule": "at most 0.3",
                "severity": "warning",
                "observed": "largest 0.41",
                "unexpected": 12,
                "verdict": "fail",
            },
        ],
    },
    "evaluation": {
        "verdict": "pass",
        "summary": "recall 0.90 at 1.2 % false alarms over 400 held-out spectra",
        "reasons": [],
        "metrics": {"recall": 0.9, "false_alarm_rate": 0.012, "class_accuracy": 0.94},
        "intervals": {"recall": [0.83, 0.95], "false_alarm_rate": [0.003, 0.03]},
    },
    "bias": {"verdict": "pass", "summary": "10 slices, none shown to be worse by more than the margin", "reasons": [], "slices": SLICES},
    "benchmark": {
        "verdict": "pass",
        "summary": "410 spectra/s at batch 64; 1.04 × the champion",
        "reasons": [],
        "hardware": {"cpu": "Xeon", "cores": 2},
        "footprints": [{"who": "candidate", "peak_mib": 343.5}],
    },
    "registration": {
        "verdict": "pass",
        "summary": "desi-vae version 7",
        "reasons": [],
        "version": "7",
        "model_digest": sha256_bytes(MODEL_BYTES),
        "signature": {"method": "OpenSSF model-signing", "key_fingerprint": "5e" * 32, "signature_sha256": "6f" * 32},
    },
    "serving": {
        "verdict": "pass",
        "summary": "gateway and one model server, inference log on",
        "reasons": [],
        "inference_log": True,
        "retention_days": 90,
        "log_flush_seconds": 5,
        "supervised": True,
        "lease_seconds": 30,
        "verify_before_load": True,
        "golden_before_ready": True,
        "finds_planted_secret": True,
        "no_secret_in_hand_off": True,
        "keys_private": True,
        "strangers_refused": True,
        "approvers_in_force": 9,
        "approvers_lapsed": 0,
        "sign_off_required": True,
        "canary": True,
        "replicas": 1,
        "drift_schedule_hours": 24,
        "rollback_available": True,
    },
}
"""Everything but ``previous_drift``: a release that does well and is not the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Human:
    """A person with a private key on disk."""

    approver: Approver
    key_file: Path


def make_key(path: Path) -> str:
    """Write a fresh ed25519 private key and return its public line."""
    private = ed25519.Ed25519PrivateKey.generate()
    openssh = serialization.PrivateFormat.OpenSSH
    path.write_bytes(private.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption()))
    path.chmod(0o600)
    return private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@pytest.fixture(scope="session")
def humans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Human]:
    folder = tmp_path_factory.mktemp("keys")
    people = {
        "vera": ("Vera Rubin", "vera@lab.example", ("ai-risk-officer", "system-owner")),
        "cecilia": ("Cecilia Payne", "cecilia@lab.example", ("ai-risk-officer", "system-owner")),
        "henrietta": ("Henrietta Leavitt", "henrietta@lab.example", ("cto",)),
        "annie": ("Annie Cannon", "annie@lab.example", ("ai-risk-officer",)),
    } | {
        f"board{n}": (name, f"b{n}@lab.example", ("board",))
        for n, name in enumerate(("Jocelyn Bell", "Nancy Roman", "Maria Mitchell", "Wu Chien", "Beatrice Tinsley"))
    }
    made = {}
    for short, (name, email, roles) in people.items():
        line = make_key(folder / short)
        approver = Approver(name=name, email=email, roles=roles, keys=(ApproverKey(ssh=line, valid_from=date(2026, 1, 1)),))
        made[short] = Human(approver=approver, key_file=folder / short)
    return made


@pytest.fixture(scope="session")
def approvers(humans: dict[str, Human], tmp_path_factory: pytest.TempPathFactory) -> Approvers:
    return write_approvers(tmp_path_factory.mktemp("approvers") / "approvers.yaml", tuple(human.approver for human in humans.values()))


@pytest.fixture
def subject() -> Subject:
    return Subject(
        release="desi-vae-ab12",
        model="desi-vae",
        model_digest="1" * 64,
        evidence={"bias": "2" * 64},
        evidence_digest="3" * 64,
        policy_digest="4" * 64,
        approvers_digest="5" * 64,
        trainer=Person(name="Cecilia Payne", email="cecilia@lab.example"),
        requirement=Requirement(band="Medium", roles={"ai-risk-officer": 1}, validity_days=30),
    )


@pytest.fixture
def statement_of(subject: Subject, humans: dict[str, Human]) -> Callable[..., Statement]:
    def make(who: str = "vera", **changes: Any) -> Statement:
        person = humans[who].approver
        made = draft(
            subject, approver=person, role=person.roles[0], decision=Decision.APPROVE, reason="recall holds in every slice", now=NOW
        )
        return made.model_copy(update=changes)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, humans: dict[str, Human]) -> Path:
    """A finished, signed release folder; do not change it."""
    return make_release(tmp_path_factory.mktemp("finished") / "releases" / "desi-vae-ab12", humans)


@pytest.fixture
def release(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished release for a test to break."""
    shutil.copytree(finished.parent, tmp_path / "releases")
    return tmp_path / "releases" / finished.name


def make_release(folder: Path, humans: dict[str, Human], **changes: dict[str, Any]) -> Path:
    """Write evidence, risk, subject, Vera's approval, the decision and the manifest."""
    documents = {**EVIDENCE, **changes}
    for name, content in documents.items():
        write_evidence(folder, name, content)
    policy_file = b"risk:\n  validity_days: 14\n"
    risk = assess(documents, scenarios=load_scenarios(), policy=RiskPolicy(validity_days=14))
    write_evidence(folder, "risk", risk.to_dict())
    people = write_approvers(folder.parent / "approvers.yaml", tuple(human.approver for human in humans.values()))
    subject = open_for_sign_off(
        folder,
        release=folder.name,
        model="desi-vae",
        model_digest=sha256_bytes(MODEL_BYTES),
        policy=policy_file,
        trainer=Person(name="Cecilia Payne", email="cecilia@lab.example"),
        requirement=Requirement(band=risk.band, roles=dict(risk.required_roles), validity_days=risk.validity_days),
        approvers=(folder.parent / "approvers.yaml").read_bytes(),
        names=[*documents, "risk"],
    )
    vera = humans["vera"]
    words = "Recall holds in every slice I care about; quasars at low S/N stay on watch."
    statement = draft(
        subject, approver=vera.approver, role=next(iter(risk.required_roles)), decision=Decision.APPROVE, reason=words, now=NOW
    )
    store(folder, sign_statement(statement, key_file=vera.key_file), email=vera.approver.email)
    found, _ = collect(folder)
    decision = judge(found, subject=subject, approvers=people, policy=RiskPolicy(validity_days=14), now=NOW)
    write_evidence(folder, "sign_off", decision.to_dict())
    complete(folder)
    return folder


@pytest.fixture
def make_release_in(humans: dict[str, Human]) -> Callable[..., Path]:
    return lambda folder, **changes: make_release(folder, humans, **changes)


def sample_pictures() -> dict[str, bytes]:
    """Pictures of a made-up release, through the real charts."""
    from governance.dossier import charts

    random = np.random.default_rng(4)
    wavelength = 3600 + 0.8 * np.arange(7781)
    examples = []
    for title, caption, z in (
        ("GALAXY z = 0.31", "score 0.4, χ² 1.02", 0.31),
        ("QSO z = 1.92", "score 1.1, χ² 1.20", 1.92),
        ("STAR", "score 0.2, χ² 0.97", 0.0),
    ):
        model = 2 + 3 * np.exp(-((wavelength - 6563 * (1 + z)) ** 2) / 900) + 4 * np.exp(-((wavelength - 1549 * (1 + z)) ** 2) / 9000)
        sigma = 0.8 + 0.6 * (wavelength > 9300)
        flux = model + random.normal(0, sigma)
        ivar_zero = (wavelength > 5770) & (wavelength < 5800)
        examples.append(
            {
                "title": title,
                "wavelength": wavelength,
                "flux": np.where(ivar_zero, np.nan, flux),
                "sigma": sigma,
                "reconstruction": model,
                "caption": caption,
            }
        )
    points = [
        {
            "who": who,
            "batch": batch,
            "latency_ms_p50": scale * (4 + 2.2 * batch),
            "latency_ms_p99": scale * (6 + 2.9 * batch),
            "spectra_per_second": 1e3 * batch / (scale * (4 + 2.2 * batch)),
        }
        for who, scale in (("candidate", 1.04), ("champion", 1.0))
        for batch in (1, 4, 16, 64)
    ]
    edges = np.linspace(0, 6, 25)
    drift = [
        {
            "column": name,
            "edges": edges,
            "reference": np.histogram(random.gamma(2, 0.8, 2000), edges)[0],
            "current": np.histogram(random.gamma(2, 0.8 * f, 500), edges)[0],
            "effect": f - 1,
            "verdict": v,
        }
        for name, f, v in (
            ("snr", 1.02, "pass"),
            ("anomaly_score", 1.05, "pass"),
            ("flux_median", 1.6, "fail"),
            ("chi2", 1.0, "cannot tell"),
        )
    ]
    return {
        "spectra": charts.spectra_panel(examples),
        "strangest": charts.spectra_panel(examples[:2]),
        "slice-recall": charts.slice_chart(SLICES, "recall"),
        "benchmark": charts.benchmark_chart(points),
        "rollout": rollout_picture(sample_rollout(), ending=Ending(verdict="pass", phase="promoting", sentence="every step passed")),
        "drift": charts.drift_chart(drift),
    }


def sample_rollout() -> list[dict[str, Any]]:
    """The points of a rollout in which the mix of classes is shown to be worse at the fourth look."""
    looks = [(0.0, 5, 0, 0.0, 0.0), (12.0, 5, 40, 1.5, 2.0), (25.0, 25, 96, 3.0, 5.0), (40.0, 50, 190, 5.5, 8.1)]
    needed = {"pass": 4.6, "fail": 7.6}

    def check(name: str, verdict: str, reason: str, healthy: float, worse: float, requests: int) -> dict[str, Any]:
        evidence = {"log_evidence_pass": healthy, "log_evidence_fail": worse, "needed": needed}
        return {"name": name, "verdict": verdict, "reason": reason, "requests": requests, **evidence}

    return [
        {
            "t_s": seconds,
            "phase": "progressing",
            "weight": weight,
            "requests": requests,
            "verdict": "fail" if worse > needed["fail"] else "cannot tell",
            "checks": [
                check("errors", "pass", "none of them failed", healthy, 0.0, requests),
                check("classes", "fail", "QSO moved by 9 points", 0.0, worse, requests),
                {"name": "agreement", "verdict": "pass", "reason": "all answers are the evaluated ones"},
            ],
        }
        for seconds, weight, requests, healthy, worse in looks
    ]


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    return sample_pictures()


@pytest.fixture(scope="session")
def ssh_keygen() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Stock ssh-keygen; skips where there is none, fails there in CI."""
    import os
    import shutil

    found = shutil.which("ssh-keygen")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("ssh-keygen must be installed in CI: apt-get install openssh-client")
    if found is None:
        pytest.skip("no ssh-keygen on this machine: signatures are not cross-tested with OpenSSH")
    return lambda *arguments, **options: subprocess.run(
        [found, *map(str, arguments)], capture_output=True, check=False, timeout=30, **options
    )
