"""A small synchronous client: arrays in, arrays out, binary both ways. Used by the canary's replay and by tests."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import httpx

from serving import protocol
from serving.errors import ProtocolError, UnreachableError
from serving.http import CLIENT, REQUEST_ID, VERSION
from serving.protocol import HEADER_LENGTH, InferenceRequest
from serving.tensors import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back, good or not."""

    outputs: Mapping[str, Array]
    """Empty unless ``status`` is 200."""
    version: str
    """The version that answered; empty when nobody did."""
    seconds: float
    status: int
    request_id: str = ""
    error: str = ""
    """The server's sentence when ``status`` is not 200."""

    @property
    def ok(self) -> bool:
        """Whether there are outputs."""
        return self.status == 200


class InferenceClient:
    """Asks one model, directly or through the gateway."""

    def __init__(
        self, url: str, model: str, *, client: str = "", timeout: float = 60.0, key: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        """``client`` is who we say we are in the inference log of a gateway without access control; ``timeout`` in seconds.

        With access control ``key`` says who we are: an API key or a bearer token. ``tls`` holds the certificates that vouch for an https
        gateway, and ours where it asks for one; None trusts what the system trusts.
        """
        self._path = f"/v2/models/{model}/infer"
        headers = {**({CLIENT: client} if client else {}), **({"authorization": f"Bearer {key}"} if key else {})}
        self._http = httpx.Client(base_url=url, timeout=timeout, headers=headers, trust_env=False, verify=True if tls is None else tls)

    def infer(self, inputs: Mapping[str, Array], request_id: str | None = None) -> Answer:
        """Return the answer. Raises UnreachableError when there was none, ProtocolError for inputs that cannot be sent."""
        message = protocol.encode_request(InferenceRequest(inputs=inputs, id=request_id, binary=True))
        headers = {**message.headers, **({REQUEST_ID: request_id} if request_id else {})}
        began = time.perf_counter()
        try:
            response = self._http.post(self._path, content=message.body, headers=headers)
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self._http.base_url} must answer, got {type(error).__name__}: is it running?") from error
        return _answer(response, seconds=time.perf_counter() - began)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> "InferenceClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _answer(response: httpx.Response, *, seconds: float) -> Answer:
    version, identifier = response.headers.get(VERSION, ""), response.headers.get(REQUEST_ID, "")
    if response.status_code != 200:
        return Answer(
            outputs={}, version=version, seconds=seconds, status=response.status_code, request_id=identifier, error=_sentence(response)
        )
    decoded = protocol.decode_response(response.content, header_length=response.headers.get(HEADER_LENGTH))
    return Answer(outputs=decoded.outputs, version=version or decoded.version, seconds=seconds, status=200, request_id=identifier)


def _sentence(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:300]
    return str(body.get("error", "")) if isinstance(body, dict) else response.text[:300]


__all__ = ["Answer", "InferenceClient", "ProtocolError", "UnreachableError"]
