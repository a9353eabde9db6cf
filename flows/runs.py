"""Flow runs as the command line sees them: start one, find the one that waits, answer it, follow it to its end.

Prefect facts relied on (3.8): a suspended run is of type PAUSED and its process is gone; ``resume_flow_run`` schedules it again
and the flow runs from the top, its finished tasks answered from their persisted results.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import refresh_global_settings_context
from prefect.states import Crashed

from firstlight.errors import RefusedError, TransientError

RELEASE = ("release-model", "on-candidate")
PREPARE = ("prepare-candidate", "nightly")
DRIFT = ("watch-drift", "hourly")
DRILL = ("rehearse-rollback", "nightly-drill")
REASSESS = ("reassess", "daily")
ANCHOR = ("anchor-ledger", "nightly-anchor")
_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """What a person wants to know of one flow run."""

    id: str
    """Prefect's id of the run."""
    name: str
    """Prefect's name of the run."""
    kind: str
    """Prefect's state type in lower case: scheduled, running, paused, completed, failed, crashed, cancelled ..."""
    title: str
    """Name of the state: ours where we gave one (Promoted, Refused, Cannot tell), else Prefect's."""
    message: str
    """The state's message."""
    parameters: Mapping[str, Any]
    """Parameters of the run."""

    @property
    def is_over(self) -> bool:
        """Nothing more will happen to it."""
        return self.kind in ("completed", "failed", "crashed", "cancelled")

    @property
    def is_waiting(self) -> bool:
        """It is suspended until a person answers."""
        return self.kind == "paused"


def start(deployment: tuple[str, str], parameters: Mapping[str, Any]) -> RunState:
    """Schedule a run of ``deployment`` (flow name, deployment name). Raises RefusedError when the server does not know it."""
    from prefect.exceptions import ObjectNotFound

    with _client() as client:
        try:
            known = client.read_deployment_by_name("/".join(deployment))
        except ObjectNotFound:
            raise RefusedError(
                f"the Prefect server must know the deployment {'/'.join(deployment)!r}, it does not: run `prefect --no-prompt deploy --all` in the project's folder"
            ) from None
        return _state(client.create_flow_run_from_deployment(known.id, parameters=dict(parameters)))


def read(run_id: str) -> RunState:
    """Return the present state of a run."""
    with _client() as client:
        return _state(client.read_flow_run(UUID(run_id)))


def recent(flow_name: str, *, limit: int = 20) -> list[RunState]:
    """Return the latest runs of a flow, newest first."""
    with _client() as client:
        return [_state(run) for run in _newest(client, flow_name, limit)]


def find(flow_name: str, parameters: Mapping[str, Any], *, since: float | None = None) -> RunState | None:
    """Return the newest unfinished run of a flow whose parameters contain ``parameters``, or None."""
    for state in recent(flow_name, limit=50):
        if not state.is_over and all(state.parameters.get(key) == value for key, value in parameters.items()):
            return state
    return None


def resume(run_id: str, answer: Mapping[str, Any]) -> None:
    """Answer a suspended run; it is scheduled again. Raises RefusedError when Prefect does not accept the answer."""
    with _client() as client:
        outcome = client.resume_flow_run(UUID(run_id), run_input=dict(answer))
        if str(outcome.status.value) != "ACCEPT":
            raise RefusedError(f"the waiting run {run_id} must accept the answer, Prefect says {outcome.details!r}: look at it in the UI")


def keep_schedules(*, active: bool) -> None:
    """Let the schedules of our deployments run, or not. Either way what was missed while no server ran is forgotten, not caught up.

    A server that lives for one command must not start a night's training beside it; under ``make up`` the clock counts from now.
    """
    with _client() as client:
        for flow_name, name in (PREPARE, RELEASE, DRIFT, DRILL, REASSESS, ANCHOR):
            known = client.read_deployment_by_name(f"{flow_name}/{name}")
            client.pause_deployment(known.id)  # deletes the runs that were scheduled ahead
            if active:
                client.resume_deployment(known.id)


def give_up(run_id: str) -> None:
    """Record that the process of a run is gone (killed together with its worker), so that the run does not look alive for ever."""
    with _client() as client:
        client.set_flow_run_state(UUID(run_id), Crashed(message="its process was gone when the release was run again"))


def follow(run_id: str, *, seconds: float, on_tick: Callable[[], None] = lambda: None, until_waiting: bool = True) -> RunState:
    """Wait until a run is over, or suspended when ``until_waiting``. Raises TransientError when ``seconds`` pass first."""
    for state in _poll(run_id, seconds):
        on_tick()
        if state.is_over or (until_waiting and state.is_waiting):
            return state
    raise TransientError(
        f"flow run {run_id} must end within {seconds:.0f} s, it did not: look at it in the Prefect UI, then run the command again"
    )


def _client() -> SyncPrefectClient:
    """Return a client of the server that the environment names now.

    Prefect reads its settings once, when it is first imported; our own server's address is known only after it was started.
    """
    refresh_global_settings_context()
    return get_client(sync_client=True)


def _poll(run_id: str, seconds: float) -> Iterator[RunState]:
    deadline = time.monotonic() + seconds
    with _client() as client:
        while time.monotonic() < deadline:
            yield _state(client.read_flow_run(UUID(run_id)))
            time.sleep(_POLL_SECONDS)


def _newest(client: SyncPrefectClient, flow_name: str, limit: int) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])), limit=limit, sort=FlowRunSort.EXPECTED_START_TIME_DESC
    )


def _state(run: FlowRun) -> RunState:
    state = run.state
    return RunState(
        id=str(run.id),
        name=run.name,
        kind=(state.type if state else StateType.PENDING).value.lower(),
        title=(state.name or "") if state else "",
        message=(state.message or "") if state else "",
        parameters=run.parameters or {},
    )
