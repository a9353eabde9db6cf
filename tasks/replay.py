"""Requests for a canary at a place with little traffic: held-out spectra, sent through the gateway like anybody's.

Their right answers are known twice over: the labels say which class is right, and the evaluation says which numbers this very
model gave. So an answer counts towards *quality* (is it right) and, when the candidate gave it, towards *agreement* (is it what
was evaluated). A row that is sent again to the same version is answered the same again, which is no new evidence of quality: only
its first answer counts there. The id of a request names its row, so that the pairs of answers that a gateway keeps can be told by S/N.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from firstlight.errors import FirstlightError
from models.handoff import HandOff
from models.summary import VECTOR_LIMIT
from rollout.judge import Answered
from serving.client import Answer, InferenceClient, UnreachableError

REPLAY = "canary-replay"
"""Who a replay says it is in the inference log: its requests are no live traffic, and no look for drift counts them."""

WayIn = Callable[[], tuple[str, str]]
"""Returns the gateway's address and the key by which it knows us; raises FirstlightError when there is none now."""

FAINT = 2.0
"""S/N below which a spectrum is faint whatever the survey."""
FEWEST_ROWS = 100
"""A part of the sky with fewer held-out rows is not judged by itself: it could never be decided."""

CLIENTS = 2
"""Callers at a time: enough to overlap sending and computing on two cores."""


@dataclass
class Tally:
    """What the answers of one version amounted to, since they were last taken."""

    good: int = 0
    judged: int = 0
    matches: int = 0
    compared: int = 0
    rows: set[int] = field(default_factory=set)
    """Held-out rows whose answer counted towards quality already, ever."""


class Replay:
    """Sends held-out spectra, one a request, in a fixed shuffled order (files lie in it as they were observed), round and round."""

    def __init__(self, way_in: WayIn, papers: HandOff, evaluated: pd.DataFrame, *, candidate: str, timeout: float = 60.0) -> None:
        """``way_in`` says where the gateway is; it is asked again when nobody answers there any more. ``timeout`` of a request, in seconds."""
        self._way_in, self._timeout = way_in, timeout
        self._inputs = papers.holdout_inputs()
        self._papers = papers
        self._expected = _expected(papers, evaluated)
        self._labels = [str(label) for label in evaluated["label_class"]] if "label_class" in evaluated else [""] * len(evaluated)
        self._candidate = candidate
        self._order = np.random.default_rng(0).permutation(len(evaluated))
        self._sent = 0
        self._lock = Lock()
        self._clients = [self._client() for _ in range(CLIENTS)]
        self._tallies: dict[str, Tally] = {}
        self.unanswered = Counter[str]()
        """Sentences of requests that got no good answer."""

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def send(self, requests: int, *, seconds: float = 3600.0) -> None:
        """Send this many requests, and none later than ``seconds`` from now; wait for their answers. One without an answer is counted, not raised."""
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._work, range(CLIENTS), self._shares(requests), [until] * CLIENTS))

    def take(self) -> dict[str, Answered]:
        """Return what came back since the last time, by version."""
        with self._lock:
            found = {
                version: Answered(good=one.good, judged=one.judged, matches=one.matches, compared=one.compared)
                for version, one in self._tallies.items()
            }
            for one in self._tallies.values():
                one.good = one.judged = one.matches = one.compared = 0
        return found

    def state(self) -> dict[str, Any]:
        """Return what another process needs to go on: which rows have counted, and where the round stands."""
        with self._lock:
            return {"turn": self._sent, "rows": {version: sorted(one.rows) for version, one in self._tallies.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        with self._lock:
            self._sent = int(state["turn"])
            for version, rows in state["rows"].items():
                self._tallies.setdefault(version, Tally()).rows.update(rows)

    def _shares(self, requests: int) -> list[int]:
        return [requests // CLIENTS + (place < requests % CLIENTS) for place in range(CLIENTS)]

    def _work(self, place: int, requests: int, until: float) -> None:
        for _ in range(requests):
            if time.monotonic() > until:
                return
            with self._lock:
                row = int(self._order[self._sent % len(self._order)])
                self._sent += 1
            one = {name: values[row : row + 1] for name, values in self._inputs.items()}
            try:
                answer = self._clients[place].infer(one, request_id=f"{named(self._candidate)}{row}")
            except UnreachableError as error:
                self._fault(str(error))
                self._find_again(place)
                continue
            self._take(row, answer)

    def _client(self) -> InferenceClient:
        url, key = self._way_in()
        return InferenceClient(url, self._papers.name, client=REPLAY, key=key, timeout=self._timeout)

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
            tally = self._tallies.setdefault(answer.version, Tally())
            if right is not None and row not in tally.rows:
                tally.rows.add(row)
                tally.good += right
                tally.judged += 1
            if answer.version == self._candidate and agrees is not None:
                tally.matches += agrees
                tally.compared += 1

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


def named(candidate: str) -> str:
    """Return how the ids of a candidate's replayed requests begin; the held-out row follows."""
    return f"replay-{candidate}-"


def strata(evaluated: pd.DataFrame) -> dict[int, tuple[str, ...]]:
    """Return, by held-out row, the parts of the sky that are judged by themselves: faint spectra, where a model may be wrong and nobody notices.

    Faint is below the median S/N of the held-out rows, and below FAINT where that is another part: FEWEST_ROWS rows, and not nearly the same.
    """
    if "snr" not in evaluated:
        return {}
    snr = evaluated["snr"].to_numpy(dtype=np.float64)
    if not np.isfinite(snr).any():
        return {}
    median = float(np.nanmedian(snr))
    faint, half = (int((snr < limit).sum()) for limit in (FAINT, median))
    limits = [median, FAINT] if faint >= FEWEST_ROWS and not 0.8 < faint / max(half, 1) < 1.25 else [median]
    parts = {f"snr<{limit:.3g}": snr < limit for limit in sorted(limits) if FEWEST_ROWS <= int((snr < limit).sum()) < len(snr)}
    return {row: found for row in range(len(snr)) if (found := tuple(name for name, is_in in parts.items() if is_in[row]))}


def _expected(papers: HandOff, evaluated: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return output -> [rows, width] as the evaluation kept them: scalars by name, short vectors as <name>_<i>."""
    found: dict[str, np.ndarray] = {}
    for output in papers.model.outputs:
        vector = [name for place in range(VECTOR_LIMIT) if (name := f"{output.name}_{place}") in evaluated]
        columns = [output.name] if output.name in evaluated else vector
        if columns:
            found[output.name] = evaluated[columns].to_numpy(dtype=np.float64)
    return found
