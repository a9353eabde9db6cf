"""The harness against our own server and gateway, with the tiny hand-off: a few requests, every part of a run."""

import dataclasses
import json

import psutil
import pytest

from benchmarks.serving import contenders, launch, run
from benchmarks.serving.contenders import PEER, missing, ours, peers, pick
from benchmarks.serving.launch import ContenderError
from benchmarks.serving.limit import Limit
from benchmarks.serving.measure import Field, Load, rounds
from benchmarks.serving.plan import Plan, Point
from benchmarks.serving.subject import Backend

POINTS = (Point("binary", 1, 1), Point("binary", 16, 4), Point("json", 16, 1))
PLAN = Plan(points=POINTS, rounds=1, warm_seconds=0.05, seconds=0.1, repeats=0, drain_rows=4)


def test_a_run_measures_our_server_and_gateway_and_stops_them_without_a_lost_request(tiny_subject, tmp_path):
    backend, said = Backend(name="eager"), []
    wanted = pick(ours(tiny_subject.papers.name, (backend,), workers=1), ["gateway-eager"])
    assert [contender.name for contender in wanted] == ["ours-eager", "gateway-eager"], "a gateway brings its model server"
    field, load = Field(tiny_subject, folder=tmp_path), Load(tiny_subject, tmp_path)
    limit = Limit(tiny_subject, backend, batches=[1, 16], workers=1)
    try:
        field.start(wanted, say=said.append)
        assert {name: facts["status"] for name, facts in field.facts.items()} == dict.fromkeys(
            ("ours-eager", "gateway-eager"), "measured"
        ), said
        stopped = field.running["ours-eager"].tree.processes()
        assert {process.status() for process in stopped} == {psutil.STATUS_STOPPED}, "whoever has no turn uses no processor"
        samples = rounds(field, {"eager": limit}, load, plan=PLAN, say=said.append)
        field.weigh()
        field.drain({}, plan=PLAN, say=said.append)
    finally:
        limit.close()
        load.close()
        field.close()
    measured = {(sample["contender"], sample["point"]): sample for sample in samples}
    assert set(measured) == {
        *((name, at.name) for name in ("limit-eager", "ours-eager", "gateway-eager") for at in POINTS[:2]),
        ("ours-eager", "json 16x1"),
    }
    for sample in samples:
        assert not sample["failed"]
        assert sample["answered"] > 0
        assert sample["rows_per_second"] > 0
        assert 0 < sample["p50_ms"] <= sample["p99_ms"]
    for name in ("ours-eager", "gateway-eager"):
        facts = field.facts[name]
        assert facts["largest_difference"] <= 1
        assert facts["memory_after_load"]["pss_mb"] > 10
        assert facts["drain"]["answered"] == facts["drain"]["requests"]
        assert facts["drain"]["processes_left"] == 0
    path = tmp_path / "report.json"
    run.write({"contenders": field.facts, "samples": samples, "in_process": []}, path)
    assert len(json.loads(path.read_text())["samples"]) == len(samples)


def test_a_peer_that_is_not_installed_is_skipped_with_the_command_that_installs_it(tiny_subject, tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "CACHE", tmp_path)
    field = Field(tiny_subject, folder=tmp_path)
    field.start(peers(2), say=lambda line: None)
    assert not field.running
    for name, facts in field.facts.items():
        assert (name, facts["status"]) == (name, "skipped")
        assert "python -m benchmarks.serving install" in facts["reason"]


def test_every_peer_has_an_app_and_pinned_requirements():
    for contender in peers(2):
        folder = launch.PEERS / contender.package
        assert contender.kind == PEER
        assert (folder / "app.py").is_file()
        pins = (folder / "requirements.txt").read_text().splitlines()
        assert any(line.startswith(contender.package) and "==" in line for line in pins)
        assert "torch==2.13.0" in pins


def test_a_server_that_does_not_start_is_left_out_with_the_end_of_its_log(tiny_subject, tmp_path):
    broken = dataclasses.replace(ours("another-name", (Backend(name="eager"),), workers=1)[0], backend=Backend(name="no-such-backend"))
    monkey = pytest.MonkeyPatch()
    monkey.setattr(launch, "_READY_SECONDS", 6.0)
    try:
        with pytest.raises(ContenderError, match="log ends with"):
            launch.launch(broken, tiny_subject, folder=tmp_path / "broken")
    finally:
        monkey.undo()
    assert missing(broken) is None
