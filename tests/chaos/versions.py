"""Versions of the tiny model of tests/models: good ones, and one for each way in which a canary can be bad. All are programs that are really run.

What is wrong with a version shows in live requests and not in its golden vectors, or it would never have got so far. Two of the ways no exported
program can have, so their model server is a faulty process (``sick``): one that keeps a piece of memory for every answer, and one that fails once
in a hundred requests, whatever is asked. The program ``brittle`` fails in one request in a hundred as well, and always in the same.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from firstlight.chain import ChainKey
from firstlight.digest import sha256_file
from models.program import export
from rollout.spec import ServableVersion
from tests.models.tiny import LENGTH, TinyModel, tiny_signals, write_tiny_handoff

MODEL = "tiny"
LEDGER_KEY = ChainKey(b"the ledger of a broken world")
FAINT = 0.5
"""Signals whose root mean square is below this have a low signal-to-noise ratio; those of the golden vectors are about 1."""
SPIKE = 8.0
"""No sample of a golden vector is as high."""
_SLOW_SIZE, _SLOW_TIMES = 320, 20


class Nan(TinyModel):
    """No number for faint signals: the square root of something that became negative."""

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        answer = super().forward(signal)
        answer["score"] = answer["score"] + 0.0 * torch.sqrt(_rms(signal) - FAINT)
        return answer


class Faint(TinyModel):
    """Wrong for faint signals only."""

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        answer = super().forward(signal)
        answer["score"] = answer["score"] + 0.5 * (_rms(signal) < FAINT).to(torch.float32)
        return answer


class Slow(TinyModel):
    """Right, after a long product of matrices that adds nothing."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.register_buffer("matrix", torch.eye(_SLOW_SIZE))

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        answer = super().forward(signal)
        idle = self.matrix + signal.sum() * 0.0
        for _ in range(_SLOW_TIMES):
            idle = idle @ self.matrix
        answer["score"] = answer["score"] + 0.0 * idle.sum()
        return answer


class Brittle(TinyModel):
    """Looks up a place that does not exist when a sample is very high."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.register_buffer("table", torch.zeros(1))

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        answer = super().forward(signal)
        answer["score"] = answer["score"] + self.table[(signal.amax(dim=1) > SPIKE).to(torch.int64)]
        return answer


def _rms(signal: torch.Tensor) -> torch.Tensor:
    return signal.square().mean(dim=1).sqrt()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of version, and what a release of it must come to."""

    name: str
    module: type[TinyModel] = TinyModel
    sickness: str = ""
    """What is wrong with its model server (``sick``); empty: nothing."""
    is_good: bool = False


GOOD = Kind(name="good", is_good=True)
NAN = Kind(name="nan", module=Nan)
FAINT_WRONG = Kind(name="faint", module=Faint)
SLOW = Kind(name="slow", module=Slow)
BRITTLE = Kind(name="brittle", module=Brittle)
LEAKING = Kind(name="leaking", sickness="leak")
HUNDREDTH = Kind(name="hundredth", sickness="hundredth")
KINDS = (GOOD, NAN, FAINT_WRONG, SLOW, BRITTLE, LEAKING, HUNDREDTH)


def write_version(folder: Path, kind: Kind, version: str) -> ServableVersion:
    """Write a hand-off of this kind to ``folder`` (must not exist); versions of all kinds answer the same where they answer right."""
    module = kind.module()
    with torch.no_grad():  # other bytes, same answers: a weight of an input that is always there, changed by less than it can show
        module.scale += int(version) * 1e-6
    write_tiny_handoff(folder, exported=export(module, {"signal": tiny_signals(4)}), recipe={"kind": kind.name, "version": version})
    digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
    return ServableVersion(model=MODEL, version=version, folder=str(folder), **digests)


def question(number: int) -> dict[str, np.ndarray]:
    """Return the inputs of the client's request ``number``: every third signal is faint, every hundredth has a spike."""
    signal = np.random.default_rng(number).normal(size=(1, LENGTH)).astype(np.float32)
    if number % 3 == 0:
        signal *= 0.2
    if number % 100 == 99:
        signal[0, 7] = 3 * SPIKE
    return {"signal": signal}


__all__ = ["BRITTLE", "FAINT_WRONG", "GOOD", "HUNDREDTH", "KINDS", "LEAKING", "MODEL", "NAN", "SLOW", "Kind", "question", "write_version"]
