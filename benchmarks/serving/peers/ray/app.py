"""Ray Serve: one replica a worker, its own batcher on. The body is read by hand: Ray has no tensor protocol."""

import asyncio
import json
import os
import signal

import ray
from ray import serve
from same_work import RAW, SameWork, port, workers
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=workers(), max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5})
class Api:
    """Decode, run together what came together, encode."""

    def __init__(self) -> None:
        self.work = SameWork()

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.001)
    async def together(self, many):
        return self.work.together(many)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-type") == RAW:
            return Response(self.work.to_raw(await self.together(self.work.from_raw(body))), media_type=RAW)
        outputs = await self.together(self.work.from_columns(json.loads(body)))
        return Response(json.dumps(self.work.to_columns(outputs)), media_type="application/json")


async def main() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await stop.wait()


if __name__ == "__main__":
    paths = {"env_vars": {name: os.environ[name] for name in ("PEER_FORM", "PEER_WORKERS", "PEER_PORT", "PYTHONPATH")}}
    ray.init(num_cpus=workers(), include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20, runtime_env=paths)
    serve.start(http_options={"host": "127.0.0.1", "port": port()}, logging_config={"enable_access_log": False})
    serve.run(Api.bind(), blocking=False)
    asyncio.run(main())
    serve.shutdown()
    ray.shutdown()
