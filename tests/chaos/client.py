"""Callers that go on asking through everything, and a record of every answer.

A caller whose connection is dropped asks once more, with the same request id: inference is idempotent, and every real client does so. It never asks
again after an answer, whatever the answer is.
"""

import itertools
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from serving.client import InferenceClient
from serving.errors import UnreachableError
from tests.chaos.versions import question

NO_ANSWER = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request and what came of it. Times are the steady clock's."""

    number: int
    began: float
    ended: float
    status: int
    """Of the last attempt; ``NO_ANSWER`` when there was none."""
    version: str = ""
    dropped: tuple[float, ...] = ()
    """When connections were dropped under it."""
    score: float = float("nan")
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the caller got an answer."""
        return self.status == 200


@dataclass(slots=True)
class Callers:
    """So many callers, each asking so often at most. Use as a context."""

    url: str
    model: str
    count: int = 3
    pause: float = 0.1
    asked: list[Asked] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, daemon=True, name=f"caller-{number}") for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)

    def since(self, moment: float) -> list[Asked]:
        """Return what began at ``moment`` (steady clock) or later and has ended."""
        return [one for one in list(self.asked) if one.began >= moment]

    def _ask(self) -> None:
        with InferenceClient(self.url, self.model, timeout=120) as client:
            while not self._over.is_set():
                self.asked.append(_one(client, next(self._numbers)))
                self._over.wait(self.pause)


def _one(client: InferenceClient, number: int) -> Asked:
    began, dropped, inputs = time.monotonic(), [], question(number)
    while True:
        try:
            answer = client.infer(inputs, request_id=f"chaos-{number}")
        except UnreachableError as error:
            dropped.append(time.monotonic())
            if len(dropped) < 2:
                continue
            return Asked(number=number, began=began, ended=time.monotonic(), status=NO_ANSWER, dropped=tuple(dropped), error=str(error))
        score = float(np.asarray(answer.outputs["score"])[0]) if answer.ok else float("nan")
        return Asked(
            number=number,
            began=began,
            ended=time.monotonic(),
            status=answer.status,
            version=answer.version,
            dropped=tuple(dropped),
            score=score,
            error=answer.error,
        )
