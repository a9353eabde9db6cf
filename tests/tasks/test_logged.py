"""Tasks read the inference log where this environment keeps it: in a folder of anybody's choice, or in an object store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from firstlight import settings
from firstlight.settings import Settings
from serving.options import ModelOptions, S3Options
from serving.recorder import Recorder
from tasks import doors


@pytest.fixture(params=["folder", "s3"])
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    if request.param == "folder":
        yield settings.load(state_dir=tmp_path / "state", inference_log_uri=str(tmp_path / "elsewhere"))
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = settings.load(state_dir=tmp_path / "state", inference_log_uri="s3://logs/rows", s3_endpoint_url=f"http://{host}:{port}")
    doors.object_store(found)._client.create_bucket(Bucket="logs")
    yield found
    server.stop()


def test_what_a_model_server_recorded_is_what_the_tasks_read(here: Settings) -> None:
    assert not doors.has_logged(here, model="vae")
    recorder = Recorder.by_options(
        ModelOptions(inference_log=here.inference_log, inference_log_spool=here.inference_log_spool),
        s3=S3Options(endpoint_url=here.s3_endpoint_url),
        model="vae",
        version="3",
        environment="local",
    )
    assert recorder is not None
    recorder.record(request_id="r", client="c", model_digest="d", inputs={}, outputs={"score": np.arange(4.0)})
    recorder.close()
    assert doors.has_logged(here, model="vae")
    assert doors.logged(here, model="vae", version="3")["score"].tolist() == [0, 1, 2, 3]
    assert len(doors.logged(here, model="vae", version="2")) == 0
    assert len(doors.logged(here, model="vae", version="3", since=datetime.now(UTC) + timedelta(hours=1))) == 0
