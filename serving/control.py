"""The caller's side of the gateway's control socket: set routes, read them back, read what was counted.

The supervisor leaves the address and the token in its folder, readable by its own user only; :func:`find` picks them up.
"""

import json
from pathlib import Path
from typing import Any, Self

import httpx

from firstlight.errors import FirstlightError
from serving.errors import SettingsError, UnreachableError
from serving.routes import Routes

ADDRESS_FILE = "serving.json"
"""In ``<state>/serving/<environment>/<model>/``: {gateway_url, control_url, token, reader_key, pid}; mode 0600."""
READER_FILE = "reader.key"
"""Beside it: the key that the supervisor makes for our own release flow at every start; it may use this model and do nothing else."""


def folder(state: Path, *, environment: str, model: str) -> Path:
    """Return where the supervisor of (environment, model) keeps its files."""
    return Path(state) / "serving" / environment / model


class Control:
    """Speaks to one gateway. Use as a context, or close it."""

    def __init__(self, url: str, *, token: str, model: str | None = None, timeout: float = 2.0) -> None:
        """``url`` is the control address, http://127.0.0.1:port; ``model`` is the one that is meant where a gateway has several."""
        self.url = url
        parameters = {} if model is None else {"model": model}
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, params=parameters, timeout=timeout, trust_env=False)

    def put_routes(self, routes: Routes) -> None:
        """Make the gateway route so. Raises UnreachableError, or FirstlightError when it refuses."""
        self._ask("PUT", "/routes", content=routes.model_dump_json())

    def routes(self) -> tuple[Routes, dict[str, int]]:
        """Return the routes that are true now, and requests in flight by version."""
        body = self._ask("GET", "/routes")
        in_flight = body.pop("in_flight")
        return Routes.model_validate(body), in_flight

    def evidence(self) -> dict[str, Any]:
        """Return {"epoch", "generation", "tracks": [{"track", "version", "requests", "errors", "refused", "latency": {bucket: count}}]}.

        The sums are over everything since the gateway with this ``epoch`` began; ``rollout.evidence.bucket`` has the buckets.
        """
        return self._ask("GET", "/evidence")

    def pairs(self, *, after: int = 0) -> dict[str, Any]:
        """Return {"epoch", "next", "dropped", "uncompared", "pairs": [...]}: pairs of answers that came after number ``after``, the first 2000.

        Ask again with ``next`` until there are none; with 0 when the ``epoch`` is another one. ``dropped`` pairs after ``after`` were forgotten
        already, ``uncompared`` requests never became pairs. What a pair holds is told in ``serving.pairs``.
        """
        return self._ask("GET", "/pairs", params={"after": str(after)})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the gateway's control at {self.url} must answer, got {type(error).__name__}: is it running?"
            ) from error
        if answer.status_code != 200:
            raise FirstlightError(f"the gateway's control must accept {method} {path}, got {answer.status_code}: {answer.text[:300]}")
        body: dict[str, Any] = answer.json()
        return body


def find(state: Path, *, environment: str, model: str) -> Control:
    """Return the control of the running gateway of (environment, model). Raises SettingsError when no supervisor left its address."""
    url, token = _address(state, "control_url", "token", environment=environment, model=model)
    return Control(url, token=token, model=model)


def entrance(state: Path, *, environment: str, model: str) -> tuple[str, str]:
    """Return (url, key) with which our own processes on this machine ask the running gateway for answers. Raises SettingsError.

    It is the control socket, which answers ``/v2`` too and needs no TLS; a request there goes the same way and is measured the same as on
    the public one. The key is recognised as ``canary-replay``, a reader of this model; it is not the token that changes routes.
    """
    url, key = _address(state, "control_url", "reader_key", environment=environment, model=model)
    return url, key


def _address(state: Path, *names: str, environment: str, model: str) -> list[str]:
    path = folder(state, environment=environment, model=model) / ADDRESS_FILE
    try:
        address = json.loads(path.read_text())
        return [str(address[name]) for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(f"{path} must hold the gateway's address, got {error}: start it with `firstlight serve`") from error
