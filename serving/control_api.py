"""What the control socket is asked besides inferences: set the routes, read them back, read what was measured. See ``control`` for its caller."""

import json
import logging
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


class ControlApi:
    """Routes and measurements of the models of one gateway. Who may ask has been decided before."""

    def __init__(self, served: Mapping[str, Served], *, metrics: GatewayMetrics, shadows: Shadows) -> None:
        """``served`` by name."""
        self._served, self._metrics, self._shadows = served, metrics, shadows

    def model_of(self, incoming: Incoming, *, default: bool) -> str | None:
        """Return the model that is asked about (?model=name); where ``default``, the only one when none is named."""
        named = _parameters(incoming).get("model")
        if named is None and default and len(self._served) == 1:
            return next(iter(self._served))
        return named

    async def answer(self, incoming: Incoming) -> tuple[int, bytes]:
        """Return status and JSON body for GET or PUT /routes and GET /measurements. Raises ProtocolError."""
        named = self.model_of(incoming, default=True)
        served = self._served.get(named or "")
        if served is None:
            raise ProtocolError(f"one model must be named (?model=name), got {named!r}", status=404 if named else 400)
        if incoming.path == "/routes" and incoming.method == "PUT":
            self._put(served, await incoming.read(limit=_BODY_BYTES))
        elif incoming.method != "GET":
            raise Refused("routes are read by GET and set by PUT", status=405, headers={"allow": "GET, PUT"}, reason="method")
        document = self._routes(served) if incoming.path == "/routes" else self._measurements(served, incoming)
        return 200, json.dumps(document).encode()

    def _routes(self, served: Served) -> Mapping[str, object]:
        return {**served.routes.model_dump(mode="json"), "in_flight": served.measurements.in_flight()}

    def _measurements(self, served: Served, incoming: Incoming) -> Mapping[str, object]:
        since = _parameters(incoming).get("since", "0")
        try:
            moment = float(since)
        except ValueError:
            raise ProtocolError(f"'since' must be unix seconds, got {since[:40]!r}") from None
        return {**served.measurements.since(moment), "shadow": self._shadows.of(served.model)}

    def _put(self, served: Served, body: bytes) -> None:
        """The next request goes by the new routes, those in flight finish where they are."""
        try:
            routes = Routes.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ProtocolError(f"routes must be valid: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
        if routes != served.routes:
            _LOG.info("routes changed", extra={"model": served.model, "routes": routes.model_dump(mode="json")})
            self._metrics.routes(served.model, served.routes, routes)
            served.route(routes)


def _parameters(incoming: Incoming) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(incoming.query).items()}
