"""One attempt at one model server. The only place of the gateway that opens connections."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from serving.errors import UnreachableError
from serving.http import CLIENT, REQUEST_ID
from serving.protocol import HEADER_LENGTH

_PASSED_ON = (HEADER_LENGTH, REQUEST_ID, CLIENT, "content-type", "traceparent", "tracestate")
_PASSED_BACK = (HEADER_LENGTH, REQUEST_ID, "content-type", "retry-after")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


class Upstream:
    """Keeps connections to the model servers."""

    def __init__(self, *, connect_seconds: float = 1.0, answer_seconds: float = 30.0) -> None:
        """``answer_seconds`` bounds the wait for an answer once connected."""
        # No proxy from the environment: these are our own processes, and a proxy would see the spectra.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(answer_seconds, connect=connect_seconds),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
            trust_env=False,
        )

    async def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer, whatever its status. Raises UnreachableError when there was none."""
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        began = time.perf_counter()
        try:
            response = await self._client.request(method, url, headers={**passed, "accept-encoding": "identity"}, content=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnreachableError(
                f"{url} must answer, got {type(error).__name__} {str(error)!r}: its version is being replaced"
            ) from error
        back = {name: response.headers[name] for name in _PASSED_BACK if name in response.headers}
        return Answer(status=response.status_code, headers=back, body=response.content, seconds=time.perf_counter() - began)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
