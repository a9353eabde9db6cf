"""HTTP manners that the model server and the gateway share: bounded bodies, request ids, errors as protocol objects."""

import os
import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving import protocol
from serving.errors import DeadlineError, NotReadyError, OverloadedError, ProtocolError

REQUEST_ID = "x-request-id"
"""Header with the caller's id of a request; made here when it is missing, always in the answer."""
VERSION = "x-firstlight-version"
"""Header of every answer: the model version that gave it."""
CLIENT = "x-firstlight-client"
"""Header in which a caller says who it is; it goes to the inference log."""
ROWS = "x-firstlight-rows"
"""Header of a good answer: how many rows it has; the gateway charges the caller for them and keeps it."""
MOST_ROWS = "x-firstlight-max-rows"
"""Header in which the gateway says how many rows this caller may ask for at once; it takes none from callers."""
BODY_BYTES = 64 << 20
"""Largest body accepted by default: 256 spectra of flux and ivar are 16 MB."""

_TOKEN = re.compile(r"(?!fl_[a-z2-7]{10}_|eyJ)[\x21-\x7e]{1,128}")
"""Ids and names go to logs, so an API key or a bearer token that was sent as one is not taken for one."""


async def read_body(request: Request, *, limit: int = BODY_BYTES) -> bytes:
    """Return the body. Raises ProtocolError 413 as soon as it is longer than ``limit``, announced or not."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def too_large(limit: int) -> ProtocolError:
    """Return the error for a body above ``limit`` bytes."""
    return ProtocolError(f"a request body must have at most {limit} bytes, got more: send fewer rows at once", status=413)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the caller's request id when it is printable and short, else a new one."""
    given = headers.get(REQUEST_ID, "")
    return given if is_token(given) else new_request_id()


def new_request_id() -> str:
    """Return an id that nobody had before."""
    return os.urandom(16).hex()


def is_token(text: str) -> bool:
    """Whether ``text`` is printable, without blanks, and has 1 to 128 characters."""
    return _TOKEN.fullmatch(text) is not None


def client(headers: Mapping[str, str]) -> str:
    """Return the caller's name for itself, or an empty text."""
    given = headers.get(CLIENT, "")
    return given if _TOKEN.fullmatch(given) else ""


def failure(message: str, *, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the protocol writes it."""
    return Response(protocol.error_body(message), status_code=status, media_type="application/json", headers=dict(headers or {}))


async def on_error(request: Request, error: Exception) -> Response:
    """Turn the errors of this room into answers; Starlette calls it."""
    if isinstance(error, ProtocolError):
        return failure(str(error), status=error.status)
    if isinstance(error, OverloadedError):
        return failure(str(error), status=503, headers={"retry-after": str(error.retry_after)})
    if isinstance(error, NotReadyError):
        return failure(str(error), status=503, headers={"retry-after": "1"})
    if isinstance(error, DeadlineError):
        return failure(str(error), status=504)
    if isinstance(error, HTTPException):
        return failure(error.detail, status=error.status_code, headers=error.headers)
    if isinstance(error, ClientDisconnect):
        return failure("the caller left", status=400)
    return failure("the server failed on this request; its log has the reason", status=500)


HANDLERS = dict.fromkeys(
    (ProtocolError, OverloadedError, NotReadyError, DeadlineError, HTTPException, ClientDisconnect, Exception), on_error
)
"""Exception handlers for a Starlette application."""
