"""The lists by which Prometheus finds the processes that come and go."""

import json

from serving.scrape_targets import ScrapeTargets


def read(folder, name):
    return json.loads((folder / "prometheus" / name).read_text())


def test_gateway_and_servers_stand_in_lists_that_follow_them(tmp_path):
    targets = ScrapeTargets(tmp_path, environment="lab", model="vae")
    targets.tell(gateway="https://[::1]:8080", servers=["http://127.0.0.1:2", "http://127.0.0.1:1"])
    assert read(tmp_path, "gateway.lab.vae.json") == [
        {"targets": ["[::1]:8080"], "labels": {"environment": "lab", "__scheme__": "https"}},
    ]
    assert [group["targets"] for group in read(tmp_path, "model.lab.vae.json")] == [["127.0.0.1:1"], ["127.0.0.1:2"]]
    targets.tell(gateway=None, servers=["http://127.0.0.1:2"])
    assert read(tmp_path, "gateway.lab.vae.json") == []
    assert [group["targets"] for group in read(tmp_path, "model.lab.vae.json")] == [["127.0.0.1:2"]]
    targets.clear()
    assert list((tmp_path / "prometheus").iterdir()) == []


def test_an_unchanged_list_is_not_written_again_and_another_user_may_read_it(tmp_path):
    targets = ScrapeTargets(tmp_path, environment="lab", model="vae")
    targets.tell(gateway="http://127.0.0.1:8080", servers=[])
    path = tmp_path / "prometheus" / "gateway.lab.vae.json"
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat().st_mtime_ns
    targets.tell(gateway="http://127.0.0.1:8080", servers=[])
    assert path.stat().st_mtime_ns == before


def test_a_place_that_cannot_be_written_costs_the_list_and_nothing_else(tmp_path, caplog):
    (tmp_path / "prometheus").write_text("a file is in the way")
    targets = ScrapeTargets(tmp_path, environment="lab", model="vae")
    targets.tell(gateway="http://127.0.0.1:8080", servers=[])
    assert "could not be written" in caplog.text
    (tmp_path / "prometheus").unlink()
    targets.tell(gateway="http://127.0.0.1:8080", servers=[])
    assert len(read(tmp_path, "gateway.lab.vae.json")) == 1
