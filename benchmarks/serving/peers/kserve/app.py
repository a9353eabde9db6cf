"""KServe's Python server: Open Inference Protocol V2, binary and JSON; one process a worker.

A worker that does not answer its parent within 5 seconds is killed and started again, and importing torch and reading the model can take
longer than that; so torch comes in only after a worker has started.
"""

import os
import threading

import kserve

_OPEN = threading.Lock()


class Api(kserve.Model):
    """Decode, run, encode."""

    work = None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: kserve.InferRequest, headers=None, response_headers=None) -> kserve.InferResponse:
        if Api.work is None:
            Api.work = _opened()
        outputs = Api.work({tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        binary = payload.use_binary_outputs
        tensors = []
        for name, array in outputs.items():
            tensor = kserve.InferOutput(name=name, shape=list(array.shape), datatype="FP32")
            tensor.set_data_from_numpy(array, binary_data=binary)
            tensors.append(tensor)
        return kserve.InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=tensors, use_binary_outputs=binary)


def _opened():
    with _OPEN:
        from same_work import SameWork

        return Api.work or SameWork()


if __name__ == "__main__":
    port, workers = int(os.environ["PEER_PORT"]), int(os.environ["PEER_WORKERS"])
    server = kserve.ModelServer(http_port=port, workers=workers, enable_grpc=False, enable_latency_logging=False)
    server.start([Api("model")])
