"""Requests for a canary at a place with little traffic: held-out spectra, sent through the gateway like anybody's.

Their right answers are known twice over: the labels say which class is right, and the evaluation says which numbers this very
model gave. So every answer counts towards *quality* (is it right) and, when the candidate gave it, towards *agreement* (is it what
was evaluated).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from threading import Lock

import numpy as np
import pandas as pd

from firstlight.errors import FirstlightError
from models.handoff import HandOff
from models.summary import VECTOR_LIMIT
from serving.client import Answer, InferenceClient, UnreachableError

REPLAY = "canary-replay"
"""Who a replay says it is in the inference log: its requests are no live traffic, and no look for drift counts them."""

WayIn = Callable[[], tuple[str, str]]
"""Returns the gateway's address and the key by which it knows us; raises FirstlightError when there is none now."""

CLIENTS = 2
"""Callers at a time: enough to overlap sending and computing on two cores."""


@dataclass
class Tally:
    """What the answers of one version amounted to."""

    quality: list[int] = field(default_factory=lambda: [0, 0])
    """Right answers, answers whose right answer is known."""
    agreement: list[int] = field(default_factory=lambda: [0, 0])
    """Answers equal to the evaluation's, answers compared."""


class Replay:
    """Sends held-out spectra, one a request, in a fixed shuffled order (files lie in it as they were observed), round and round."""

    def __init__(self, way_in: WayIn, papers: HandOff, evaluated: pd.DataFrame, *, candidate: str) -> None:
        """``way_in`` says where the gateway is; it is asked again when nobody answers there any more."""
        self._way_in = way_in
        self._inputs = papers.holdout_inputs()
        self._papers = papers
        self._expected = _expected(papers, evaluated)
        self._labels = [str(label) for label in evaluated["label_class"]] if "label_class" in evaluated else [""] * len(evaluated)
        self._candidate = candidate
        self._order = np.random.default_rng(0).permutation(len(evaluated))
        self._turn = count()
        self._lock = Lock()
        self._clients = [self._client() for _ in range(CLIENTS)]
        self.tallies: dict[str, Tally] = {}
        self.unanswered = Counter[str]()
        """Sentences of requests that got no good answer."""

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def send(self, requests: int) -> None:
        """Send this many requests and wait for their answers. A request without an answer is counted, not raised."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._work, range(CLIENTS), self._shares(requests)))

    def restart(self) -> None:
        """Forget the candidate's tally: a new step is judged by its own answers."""
        self.tallies.pop(self._candidate, None)

    def counts(self, version: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (quality, agreement) of a version, each as (good, total)."""
        tally = self.tallies.get(version, Tally())
        return (tally.quality[0], tally.quality[1]), (tally.agreement[0], tally.agreement[1])

    def _shares(self, requests: int) -> list[int]:
        return [requests // CLIENTS + (place < requests % CLIENTS) for place in range(CLIENTS)]

    def _work(self, place: int, requests: int) -> None:
        for _ in range(requests):
            with self._lock:
                row = int(self._order[next(self._turn) % len(self._order)])
            one = {name: values[row : row + 1] for name, values in self._inputs.items()}
            try:
                answer = self._clients[place].infer(one, request_id=f"replay-{self._candidate}-{row}")
            except UnreachableError as error:
                self._fault(str(error))
                self._find_again(place)
                continue
            self._take(row, answer)

    def _client(self) -> InferenceClient:
        url, key = self._way_in()
        return InferenceClient(url, self._papers.name, client=REPLAY, key=key)

    def _find_again(self, place: int) -> None:
        """A gateway or supervisor that was started anew has another port and knows us by another key."""
        with suppress(FirstlightError):
            found = self._client()
            self._clients[place].close()
            self._clients[place] = found

    def _take(self, row: int, answer: Answer) -> None:
        if not answer.ok:
            self._fault(answer.error)
            return
        right, agrees = self._is_right(row, answer.outputs), self._agrees(row, answer.outputs)
        with self._lock:
            tally = self.tallies.setdefault(answer.version, Tally())
            if right is not None:
                tally.quality[0] += right
                tally.quality[1] += 1
            if answer.version == self._candidate and agrees is not None:
                tally.agreement[0] += agrees
                tally.agreement[1] += 1

    def _is_right(self, row: int, outputs: Mapping[str, np.ndarray]) -> bool | None:
        """Right class where the label is known; for a model without classes, an answer that is a number everywhere."""
        role, classes = self._papers.role("class_probabilities"), self._papers.model.classes
        if role is None or not classes:
            return all(bool(np.isfinite(values).all()) for values in outputs.values() if values.dtype.kind == "f")
        label = self._labels[row]
        if label not in classes or role not in outputs:
            return None
        return classes[int(np.argmax(outputs[role][0]))] == label

    def _agrees(self, row: int, outputs: Mapping[str, np.ndarray]) -> bool | None:
        """Every output the evaluation kept is what it was, within the hand-off's epsilon; None where it kept none."""
        epsilon = self._papers.model.epsilon
        compared = [(outputs[name][0], expected[row]) for name, expected in self._expected.items() if name in outputs]
        if not compared:
            return None
        return all(np.allclose(np.ravel(given), known, rtol=epsilon.rtol, atol=epsilon.atol) for given, known in compared)

    def _fault(self, sentence: str) -> None:
        with self._lock:
            self.unanswered[sentence] += 1


def _expected(papers: HandOff, evaluated: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return output -> [rows, width] as the evaluation kept them: scalars by name, short vectors as <name>_<i>."""
    found: dict[str, np.ndarray] = {}
    for output in papers.model.outputs:
        vector = [name for place in range(VECTOR_LIMIT) if (name := f"{output.name}_{place}") in evaluated]
        columns = [output.name] if output.name in evaluated else vector
        if columns:
            found[output.name] = evaluated[columns].to_numpy(dtype=np.float64)
    return found
