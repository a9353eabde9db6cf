"""One place where a model is served and released, as real processes: a store, a supervisor with all it starts, and a driver for each release.

It knows how to find each process, how to kill it, and how to start again what a service manager would start again: supervisor and driver.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from firstlight.errors import FirstlightError
from rollout.policy import RolloutPolicy
from rollout.records import RolloutRecord
from rollout.spec import Phase, Traffic
from rollout.store import Store
from serving import adoption, control
from serving.adoption import Record
from serving.routes import Routes, Target
from serving.steering import traffic_of
from tests.chaos import clocks, sick, witness
from tests.chaos.databases import Broken
from tests.chaos.versions import LEDGER_KEY, MODEL, Kind, write_version

ENVIRONMENT = "chaos"
ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "model": {"workers": 1, "cache_mb": 0, "queue_requests": 64},
    "gateway": {"answer_seconds": 60},
    "orphan_seconds": 60,
}
_BUSY_SECONDS = 5.0


@dataclass(slots=True)
class World:
    """Use as a context: on leaving it nothing is left running."""

    folder: Path
    database: Broken
    url: str = ""
    store: Store = field(init=False)
    _supervisor: "subprocess.Popen[bytes] | None" = None
    _drivers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    _port: int = 0
    _made: int = 0

    def __enter__(self) -> "World":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.database.url, busy_seconds=_BUSY_SECONDS, ledger_key=LEDGER_KEY)
        witness.watch(self.database.url)
        self.sick_file.write_text("{}")
        return self

    def __exit__(self, *exception: object) -> None:
        self.database.mend()
        for driver in self._drivers:
            driver.kill()
            driver.wait(10)
        if self._supervisor is None or self._supervisor.poll() is not None:
            self.start()  # only a supervisor knows what was left running
        assert self._supervisor is not None
        self._supervisor.terminate()
        self._supervisor.wait(40)
        self.store.close()

    # what there is

    @property
    def sick_file(self) -> Path:
        """Which versions are ill."""
        return self.folder / "sick.json"

    @property
    def clock_file(self) -> Path:
        """By how much the wall clock of every process is off."""
        return self.folder / "clock"

    @property
    def hold_file(self) -> Path:
        """Phases (one a line, like ``progressing/50``) in which a driver is not shown what was measured, so that it stays in them."""
        return self.folder / "hold"

    def add(self, kind: Kind) -> str:
        """Make a new version of this kind servable; return its number."""
        self._made += 1
        version = str(self._made)
        if kind.sickness:
            self.sick_file.write_text(json.dumps({**json.loads(self.sick_file.read_text()), version: kind.sickness}))
        servable = write_version(self.folder / f"version-{version}", kind, version)
        self.store.add_version(servable)
        return version

    # processes

    def start(self) -> None:
        """Start the supervisor; again and again while it refuses because the store is away, as a service manager would."""
        deadline = time.monotonic() + 90
        while True:
            self._supervisor = self._spawn("supervise", self._words(), log="supervisor.err")
            assert self._supervisor.stdout is not None
            with self._supervisor.stdout as said:
                line = said.readline()
            if line:
                break
            assert time.monotonic() < deadline, (self.folder / "supervisor.err").read_text()[-3000:]
            time.sleep(0.2)
        self.url = json.loads(line)["gateway_url"]
        self._port = int(self.url.rsplit(":", 1)[1])

    def drive(self, release_id: str, version: str, policy: RolloutPolicy) -> "subprocess.Popen[bytes]":
        """Start a driver of this release."""
        words = {
            "state": str(self.folder),
            "store": self.database.url,
            "release": release_id,
            "version": version,
            "policy": policy.model_dump_json(),
            "hold": str(self.hold_file),
        }
        driver = self._spawn("drive", words, log="driver.log")
        assert driver.stdout is not None
        driver.stdout.close()
        self._drivers.append(driver)
        return driver

    def kill(self, role: str) -> int | None:
        """Kill -9 what has this role now; return its process id, or None when there is none."""
        pid = self.pid(role)
        if pid is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if role == "supervisor" and self._supervisor is not None:
            self._supervisor.wait(10)
        return pid

    def pid(self, role: str) -> int | None:
        """Return the process id of ``supervisor``, ``driver``, ``gateway``, ``canary``, ``baseline`` or ``stable``, or None."""
        if role == "supervisor":
            return self._supervisor.pid if self._supervisor is not None and self._supervisor.poll() is None else None
        if role == "driver":
            return next((driver.pid for driver in reversed(self._drivers) if driver.poll() is None), None)
        found = [record for record in self.census() if self._plays(record, role) and record.being.lives]
        return found[0].being.pid if found else None

    def exit_code(self, pid: int) -> int | None:
        """Return how the driver with this process id ended; None while it runs."""
        return next(driver.poll() for driver in self._drivers if driver.pid == pid)

    def refuses_another_supervisor(self) -> bool:
        """Start a second supervisor, and return whether it said in a sentence that there is one."""
        (self.folder / "second.err").unlink(missing_ok=True)
        second = self._spawn("supervise", self._words(), log="second.err")
        try:
            code = second.wait(90)
        finally:
            second.kill()
            second.wait(10)
            if second.stdout is not None:
                second.stdout.close()
        return code != 0 and "must have one supervisor" in (self.folder / "second.err").read_text()

    def is_wanted(self, role: str) -> bool:
        """Return whether there should be a process of this role; true while the store cannot be asked."""
        try:
            wanted = self.store.desired(ENVIRONMENT, MODEL)
        except FirstlightError:
            return True
        if role in ("canary", "baseline", "stable"):
            return wanted is not None and bool(getattr(wanted.traffic, role))
        return True

    def census(self) -> tuple[Record, ...]:
        """Return the processes that the supervisor says it has."""
        try:
            census = adoption.read(control.folder(self.folder, environment=ENVIRONMENT, model=MODEL))
        except FirstlightError:
            return ()
        return census.children if census else ()

    def _words(self) -> dict[str, str]:
        words = {"environment": ENVIRONMENT, "model": MODEL, "state": str(self.folder), "store": self.database.url, "port": str(self._port)}
        return {**words, "options": json.dumps(OPTIONS)}

    def _plays(self, record: Record, role: str) -> bool:
        if role in ("gateway", "baseline"):
            return record.role == role
        try:
            wanted = self.store.desired(ENVIRONMENT, MODEL)
        except FirstlightError:
            return False
        version = getattr(wanted.traffic, role) if wanted else None
        return record.role == "model" and version is not None and record.version == version

    def _spawn(self, role: str, words: dict[str, str], *, log: str) -> "subprocess.Popen[bytes]":
        paths = {sick.FILE: str(self.sick_file), clocks.FILE: str(self.clock_file), "PYTHONPATH": str(ROOT)}
        with (self.folder / log).open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.online", role, json.dumps(words)],
                env={**os.environ, **paths, "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    # what is true

    def routes(self) -> Routes | None:
        """Return the gateway's routes, or None while it cannot be asked."""
        try:
            with control.find(self.folder, environment=ENVIRONMENT, model=MODEL) as gateway:
                return gateway.routes()[0]
        except FirstlightError:
            return None

    def rollout(self) -> RolloutRecord | None:
        """Return the rollout as it is saved; None while the store cannot be asked."""
        with contextlib.suppress(FirstlightError):
            return self.store.rollout(ENVIRONMENT, MODEL)
        return None

    def place(self, release_id: str) -> str:
        """Return the phase of this release's rollout, with its weight while it progresses: ``starting``, ``progressing/50`` …

        Empty before a driver has saved anything, and while the store cannot be asked.
        """
        record = self.rollout()
        if record is None or record.release_id != release_id or record.status is None:
            return ""
        status = record.status
        return f"{status.phase.value}/{status.weight}" if status.phase is Phase.PROGRESSING else status.phase.value

    def shares(self) -> tuple[str, ...]:
        """Return the roles that get requests by the gateway's routes."""
        routes = self.routes()
        if routes is None:
            return ()
        left = 100 - routes.canary_weight - routes.baseline_weight
        having = {"stable": left if routes.stable else 0, "canary": routes.canary_weight, "baseline": routes.baseline_weight}
        return tuple(role for role, share in having.items() if share > 0)

    def as_desired(self) -> bool:
        """Return whether requests are spread over versions as should be true now: as desired while the lease holds, else all to stable.

        A version that gets nothing may be on its way up still, and a baseline is stable's version.
        """
        routes = self.routes()
        try:
            wanted, seen = self.store.desired(ENVIRONMENT, MODEL), self.store.observed(ENVIRONMENT, MODEL)
        except FirstlightError:
            return False
        if routes is None or wanted is None or seen is None or seen.traffic is None or seen.generation != wanted.generation:
            return False
        now = time.time() + clocks.offset(self.clock_file)
        is_over = wanted.lease_until is not None and now >= wanted.lease_until
        should = Traffic(stable=wanted.traffic.stable) if is_over else wanted.traffic
        return _spread(traffic_of(routes)) == _spread(should) == _spread(seen.traffic) and all(map(_answers, _having(routes)))


def _having(routes: Routes) -> list[Target]:
    """Return the targets that get requests."""
    left = 100 - routes.canary_weight - routes.baseline_weight
    shares = ((routes.stable, left), (routes.canary, routes.canary_weight), (routes.baseline, routes.baseline_weight))
    return [target for target, share in shares if target is not None and share > 0]


def _answers(target: Target) -> bool:
    """Return whether somebody is there and ready: routes may lead to one who has just died."""
    try:
        return httpx.get(f"{target.url}/v2/health/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _spread(traffic: Traffic) -> dict[str, float]:
    """Return the share of the requests of every version that gets some."""
    return {version: traffic.share(version) for version in traffic.versions if traffic.share(version) > 0}


def until(condition: Callable[[], Any], seconds: float, what: str, *, every: float = 0.05) -> Any:
    """Return the first true value of ``condition``; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} must come true within {seconds:.0f} s, it did not"
        time.sleep(every)
    return found
