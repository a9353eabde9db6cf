"""What the supervisor is told, and how: everything a person can set arrives, and no secret stands where every process list shows it."""

import json

import pytest

from firstlight import settings
from firstlight.cli.serving import supervisor_arguments
from serving import options

SECRET = "a-key-nobody-else-may-read"


@pytest.fixture
def told(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CA_BUNDLE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    return settings.load(
        state_dir=tmp_path,
        inference_log_uri="s3://logs/inference",
        inference_log_sample=0.5,
        s3_endpoint_url="http://127.0.0.1:9",
        s3_access_key="who",
        s3_secret_key=SECRET,
        otlp_endpoint="http://127.0.0.1:4318",
    )


def test_the_supervisor_is_told_where_the_log_and_the_traces_go(told, tmp_path):
    arguments = supervisor_arguments(told, port=0)
    every = options.parse(arguments[arguments.index("--options") + 1])
    assert (every.model.inference_log, every.model.inference_log_sample) == ("s3://logs/inference", 0.5)
    assert every.model.inference_log_spool == tmp_path / "inference-log-spool"
    assert (every.s3.endpoint_url, every.s3.path_style) == ("http://127.0.0.1:9", True)
    assert (every.otlp_endpoint, every.environment) == ("http://127.0.0.1:4318", "local")


def test_the_key_of_the_object_store_travels_in_the_environment_and_never_on_the_command_line(told):
    assert SECRET not in json.dumps(supervisor_arguments(told, port=0))
    environment = settings.environment_for_children(told)
    assert (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]) == ("who", SECRET)


def test_a_log_in_a_folder_is_named_absolutely_so_that_every_process_means_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load(inference_log_uri="rows").inference_log == str(tmp_path / "rows")
    assert settings.load().inference_log == str(tmp_path / ".firstlight" / "inference-log")
