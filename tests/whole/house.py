"""One environment of firstlight in a folder of its own, and the commands that a person gives it, as real processes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firstlight import settings as settings_module
from firstlight.settings import Settings, environment_for_children
from governance.approvers import Approver, ApproverKey, write_approvers
from models.handoff import load
from models.model_version import MODEL_DIGEST
from models.registry import Registry
from rollout.store import Store
from serving import access_editing
from serving.access_editing import NewClient
from tests.whole import toy

OWNER, TRAINER, PLACEHOLDER, STRANGER = "vera@lab.example", toy.TRAINER.email, "tbd@lab.example", "nobody@lab.example"
CTO = "henrietta@lab.example"
PEOPLE = {OWNER: "Vera Rubin", TRAINER: toy.TRAINER.name, PLACEHOLDER: "TBD", CTO: "Henrietta Leavitt"}


@dataclass(frozen=True, kw_only=True)
class House:
    """The folder, the settings, and how to give commands."""

    folder: Path
    settings: Settings
    key: str
    """What the gateway knows a caller by: access control is on, and releases must not need more than they are given."""
    made: dict[float, Path] = field(default_factory=dict)

    def handoff(self, gain: float, **changes: Any) -> Path:
        """Return the folder of a hand-off of this gain, written once."""
        if gain not in self.made:
            self.made[gain] = toy.write_toy(self.folder / "made" / f"gain{gain}", gain=gain, **changes)
        return self.made[gain]

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start ``firstlight`` with ``words``."""
        return subprocess.Popen(
            [sys.executable, "-m", "firstlight", *map(str, words)],
            env={**environment_for_children(self.settings), "COLUMNS": "500", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str | Path, seconds: float = 400, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``firstlight`` with ``words`` to its end."""
        process = self.start(*words, **environment)
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
            process.wait()
        sys.stdout.write(f"$ firstlight {' '.join(map(str, words))}\n{out}{err}-> {process.returncode}\n")
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def sign(
        self, release: str, *, by: str = OWNER, key: str | None = None, reason: str = "every gate passed"
    ) -> subprocess.CompletedProcess[str]:
        """Sign off a release as a person would."""
        return self.run("sign-off", release, "--key", self.folder / "keys" / (key or by), "--as", by, "--reason", reason, "--yes")

    def break_glass(self, release: str) -> subprocess.CompletedProcess[str]:
        """Let a release go on before its quorum has signed."""
        reason = "the live model cannot read tonight's files"
        return self.run("break-glass", release, "--key", self.folder / "keys" / CTO, "--as", CTO, "--reason", reason, "--yes")

    def status(self) -> dict[str, Any]:
        """Return what ``firstlight status --json`` prints."""
        return dict(json.loads(self.run("status", "--json").stdout))

    def canary_weight(self) -> int:
        """Return the percent of requests that the canary should get now."""
        with self.store() as records:
            desired = records.desired(self.settings.environment, toy.NAME)
        return desired.traffic.canary_weight if desired else 0

    def version(self, gain: float) -> str:
        """Return the version as which the hand-off of this gain is registered."""
        with self.store() as records:
            found = records.version_by_digest(toy.NAME, load(self.handoff(gain)).model_digest)
        assert found is not None
        return found.version

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store."""
        with Store(self.settings.store) as records:
            yield records

    def registry(self) -> Registry:
        """Return the registry."""
        return Registry(self.settings.tracking_uri, artifact_root=self.settings.artifact_root)

    def open_release(self) -> str:
        """Return the id of the open release."""
        with self.store() as records:
            opened = records.open_one(self.settings.environment, toy.NAME)
        assert opened is not None
        return opened.id

    def champion(self) -> str | None:
        """Return the champion's version."""
        with self.store() as records:
            found = records.champion(self.settings.environment, toy.NAME)
        return found.version if found else None

    def journal(self) -> list[dict[str, Any]]:
        """Return every line of the journal."""
        file = self.settings.folder("logs") / "journal.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def times(self, stage: str, event: str) -> int:
        """Return how often the journal has ``event`` for ``stage``."""
        return sum(line["stage"] == stage and line["event"] == event for line in self.journal())

    def flow_processes(self) -> list[psutil.Process]:
        """Return the living processes that run our flows, found by their command line and our state folder."""
        mine = str(self.settings.state)
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            try:
                if ("prefect.flow_engine" in words or "prefect.engine" in words) and mine in process.environ().get(
                    "FIRSTLIGHT_STATE_DIR", ""
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def registered(self) -> list[tuple[str, str]]:
        """Return (version, model digest) of everything in MLflow's own tables; empty when there is no database yet."""
        database = self.settings.state / "mlflow.db"
        if not database.is_file():
            return []
        query = (
            "SELECT v.version, t.value FROM model_versions v JOIN model_version_tags t ON (t.name, t.version) = (v.name, v.version) "
            "WHERE t.key = ? AND v.current_stage != 'Deleted_Internal' ORDER BY v.version"
        )
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return [(str(version), str(digest)) for version, digest in connection.execute(query, [MODEL_DIGEST])]

    def kill_flow(self) -> int:
        """Kill the flow's process with -9; return how many there were."""
        found = self.flow_processes()
        for process in found:
            os.kill(process.pid, signal.SIGKILL)
        return len(found)


def until(condition: Callable[[], Any], *, seconds: float = 120.0, every: float = 0.05, what: str = "the condition") -> Any:
    """Return the first true value of ``condition``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"{what} must come true within {seconds:.0f} s, it did not")


def write_people(folder: Path, approvers: Path) -> None:
    """Make a key for everybody, and an approvers file with everybody but the stranger; the placeholder is in it, as papers are."""
    people = []
    folder.mkdir(parents=True)
    for email in (*PEOPLE, STRANGER):
        key = Ed25519PrivateKey.generate()
        path = folder / email
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()))
        path.chmod(0o600)
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        if email in PEOPLE:
            key_of = ApproverKey(ssh=line, valid_from=date(2026, 1, 1))
            people.append(Approver(name=PEOPLE[email], email=email, roles=("cto",) if email == CTO else ("system-owner",), keys=(key_of,)))
    write_approvers(approvers, tuple(people))


@contextmanager
def built(folder: Path, **variables: str) -> Iterator[House]:
    """Make an environment in ``folder`` and let this process, and what it starts, be in it; put everything back afterwards."""
    before = dict(os.environ)
    state = folder / "state"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("FIRSTLIGHT_", "PREFECT_"))]:
            patch.delenv(name)
        policy = toy.write_policy(folder / "policy.yaml")
        for name, value in {"STATE_DIR": str(state), "MODEL": toy.NAME, "POLICY_FILE": str(policy), **variables}.items():
            patch.setenv(f"FIRSTLIGHT_{name}", value)
        patch.setenv("PREFECT_HOME", str(state / "prefect"))
        settings_module.current.cache_clear()
        settings = settings_module.current()
        write_people(folder / "keys", settings.approvers_path)
        caller = NewClient(name="survey", roles=["reader"], models=[toy.NAME])
        key = access_editing.add(state / "access.yaml", caller, now=datetime.now(UTC))
        try:
            yield House(folder=folder, settings=settings, key=key.text)
        finally:
            settings_module.current.cache_clear()
            os.environ.clear()
            os.environ.update(before)
