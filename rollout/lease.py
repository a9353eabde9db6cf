"""What we said should be true, and until when that holds when we say nothing more."""

from rollout.backends.base import ServingBackend
from rollout.clock import Clock
from rollout.spec import Traffic

_RENEWED_AFTER = 0.25
"""Part of a lease after which it is renewed: three renewals may be lost before traffic goes back."""


class Lease:
    """Our canary's place in traffic, counted by our own steady clock, so that we know when it is gone without being told."""

    def __init__(self, backend: ServingBackend, clock: Clock, *, seconds: float, poll_seconds: float) -> None:
        """``seconds`` is how long a canary stays out when nobody renews."""
        self._backend, self._clock, self._seconds, self._poll_seconds = backend, clock, seconds, poll_seconds
        self._said: Traffic | None = None
        self._said_at = clock.steady()

    @property
    def is_over(self) -> bool:
        """Whether a canary that we put out is surely not out any more."""
        return self._said is not None and self._said.canary is not None and self._age >= self._seconds

    @property
    def seconds_left(self) -> float:
        """Until the canary goes back by itself."""
        return max(0.0, self._seconds - self._age)

    def say(self, traffic: Traffic) -> None:
        """Say that ``traffic`` should be true, unless it was said and is fresh. Raises what ``ServingBackend.apply`` raises."""
        if traffic == self._said and (traffic.canary is None or self._age < _RENEWED_AFTER * self._seconds):
            return
        began = self._clock.steady()  # the lease runs from before the store was asked: it may answer late
        self._backend.apply(traffic)
        self._said, self._said_at = traffic, began

    def begin_again(self) -> None:
        """Forget what was said: after a lapse it has to be said anew."""
        self._said = None

    def is_true(self) -> bool:
        """Return whether the world, read back, is what was said last."""
        return self._said is not None and self._backend.current() == self._said

    def read_back(self) -> bool:
        """Wait until the world is what was said last, at most one lease; return whether it is."""
        deadline = self._clock.steady() + self._seconds
        while not self.is_true():
            if self._clock.steady() >= deadline:
                return False
            self._clock.sleep(self._poll_seconds)
        return True

    @property
    def _age(self) -> float:
        return self._clock.steady() - self._said_at
