"""LitServe: its own batcher on, workers as processes. The body stays bytes (also JSON, which the worker decodes) and so does the answer."""

import json
from typing import Annotated

import litserve
from fastapi import Body, Response
from same_work import RAW, SameWork, port, workers


class Api(litserve.LitAPI):
    """Decode, run together what came together, encode."""

    def setup(self, device):
        self.work = SameWork()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]):
        if request[:1] == b"{" and request[-1:] == b"}":
            return "json", self.work.from_columns(json.loads(request))
        return "raw", self.work.from_raw(request)

    def batch(self, inputs):
        return inputs

    def predict(self, many):
        outputs = self.work.together([one for _, one in many])
        return [(form, one) for (form, _), one in zip(many, outputs, strict=True)]

    def unbatch(self, output):
        return output

    def encode_response(self, output) -> Response:
        form, outputs = output
        if form == "raw":
            return Response(self.work.to_raw(outputs), media_type=RAW)
        return Response(json.dumps(self.work.to_columns(outputs)), media_type="application/json")


if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers(), timeout=120, fast_queue=True, track_requests=False)
    server.run(host="127.0.0.1", port=port(), generate_client_file=False, log_level="warning")
