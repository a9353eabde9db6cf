"""One retry rule for every step: only what may succeed unchanged is tried again, with back-off and jitter."""

from collections.abc import Callable
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from firstlight.errors import TransientError

ATTEMPTS = 3
"""Further tries after the first."""


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether the failed try may be repeated: only when it ended with a TransientError."""
    outcome = state.result(raise_on_failure=False)
    return isinstance(outcome, TransientError)


def retrying() -> dict[str, Any]:
    """Return the keyword arguments of ``prefect.task`` that make a step retry transient errors: 2, 4, 8 s, each up to half as long again."""
    delays: Callable[[int], list[float]] = exponential_backoff(2)
    return {
        "retries": ATTEMPTS,
        "retry_delay_seconds": delays,
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": is_transient,
    }
