"""What the control socket is asked besides inferences: set the routes, read them back, read what was counted. See ``control`` for its caller."""

import json
import logging
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qs

from pydantic import ValidationError

from serving.errors import ProtocolError, Refused
from serving.gateway_metrics import GatewayMetrics
from serving.incoming import Incoming
from serving.routes import Routes
from serving.served import Served
from serving.shadow import Shadows

_LOG = logging.getLogger(__name__)
_BODY_BYTES = 1 << 16
_DIGITS = 18


class ControlApi:
    """Routes, sums and pairs of the models of one gateway. Who may ask has been decided before."""

    def __init__(self, served: Mapping[str, Served], *, metrics: GatewayMetrics, shadows: Shadows) -> None:
        """``served`` by name."""
        self._served, self._metrics, self._shadows = served, metrics, shadows
        self.epoch = secrets.token_hex(8)
        """Names this process: sums and numbers of pairs begin anew with another one."""

    def model_of(self, incoming: Incoming, *, default: bool) -> str | None:
        """Return the model that is asked about (?model=name); where ``default``, the only one when none is named."""
        named = _parameters(incoming).get("model")
        if named is None and default and len(self._served) == 1:
            return next(iter(self._served))
        return named

    async def answer(self, incoming: Incoming) -> tuple[int, bytes]:
        """Return status and JSON body for GET or PUT /routes, GET /evidence and /pairs. Raises ProtocolError."""
        named = self.model_of(incoming, default=True)
        served = self._served.get(named or "")
        if served is None:
            raise ProtocolError(f"one model must be named (?model=name), got {named!r}", status=404 if named else 400)
        if incoming.path == "/routes" and incoming.method == "PUT":
            self._put(served, await incoming.read(limit=_BODY_BYTES))
        elif incoming.method != "GET":
            raise Refused("routes are read by GET and set by PUT", status=405, headers={"allow": "GET, PUT"}, reason="method")
        if incoming.path == "/pairs":
            return 200, self._pairs(served, incoming)
        document = self._routes(served) if incoming.path == "/routes" else self._evidence(served)
        return 200, json.dumps(document).encode()

    def _routes(self, served: Served) -> Mapping[str, object]:
        return {**served.routes.model_dump(mode="json"), "in_flight": served.measurements.in_flight()}

    def _evidence(self, served: Served) -> Mapping[str, object]:
        return {"epoch": self.epoch, "generation": served.routes.generation, "tracks": served.measurements.totals()}

    def _pairs(self, served: Served, incoming: Incoming) -> bytes:
        after = _parameters(incoming).get("after", "0")
        if not after.isdecimal() or len(after) > _DIGITS:
            raise ProtocolError(f"'after' must be the number of a pair, got {after[:40]!r}")
        return self._shadows.comparer.log(served.model).page(int(after), epoch=self.epoch)

    def _put(self, served: Served, body: bytes) -> None:
        """The next request goes by the new routes, those in flight finish where they are."""
        try:
            routes = Routes.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ProtocolError(f"routes must be valid: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
        if not routes.says(served.routes):
            _LOG.info("routes changed", extra={"model": served.model, "routes": routes.model_dump(mode="json")})
            self._metrics.routes(served.model, served.routes, routes)
        served.route(routes)  # the same again says that they stay true: a canary's time begins anew


def _parameters(incoming: Incoming) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(incoming.query).items()}
