"""The access log: whole lines, no secrets, no delay, bounded files."""

import json
import time

import pytest

from serving import access_keys, access_log
from serving.access_log import AccessLog, Request
from serving.grants import ANYBODY, Action, Caller

CALLER = Caller(name="portal", grants=ANYBODY.grants, proof="key aaaaaaaaaa")
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2xhYiJ9.c2lnbmF0dXJl"


def request(number=0, **more):
    said = {
        "time": 1_800_000_000.1234,
        "request_id": f"r{number}",
        "address": "10.25.20.7",
        "method": "POST",
        "status": 200,
        "seconds": 0.01234567,
    }
    return Request.of(
        CALLER, action=Action.INFER, **{**said, "path": "/v2/models/desi-vae/infer", "model": "desi-vae", "version": "3", **more}
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_asked_what_and_what_came_of_it(tmp_path):
    with AccessLog(tmp_path / "logs" / "access.log") as log:
        log.write(request(bytes_in=62_000, bytes_out=31_000, rows=1))
    (line,) = lines(log.path)
    assert line == {
        "time": 1_800_000_000.123,
        "request_id": "r0",
        "client": "portal",
        "proof": "key aaaaaaaaaa",
        "address": "10.25.20.7",
        "method": "POST",
        "path": "/v2/models/desi-vae/infer",
        "action": "infer",
        "model": "desi-vae",
        "version": "3",
        "status": 200,
        "seconds": 0.012346,
        "bytes_in": 62_000,
        "bytes_out": 31_000,
        "rows": 1,
    }
    assert log.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("place", ["path", "request_id", "model", "version"])
@pytest.mark.parametrize("secret", [access_keys.make().text, TOKEN], ids=["key", "token"])
def test_a_secret_that_a_caller_put_where_none_belongs_is_not_written(tmp_path, place, secret):
    with AccessLog(tmp_path / "access.log") as log:
        log.write(request(**{place: f"/v2/{secret}/x"}))
    text = log.path.read_text()
    assert secret.split("_", 2)[-1].split(".")[-1] not in text
    assert "(secret)" in text


def test_what_is_no_text_for_json_is_written_all_the_same_and_long_texts_are_cut(tmp_path):
    with AccessLog(tmp_path / "access.log") as log:
        log.write(request(path="/\udcff\n\x00", model="m" * 5000))
    (line,) = lines(log.path)
    assert line["path"].startswith("/")
    assert len(line["model"]) == 200


def test_files_turn_over_by_size_and_the_oldest_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 0.01)
    with AccessLog(tmp_path / "access.log", file_bytes=2000, files=3) as log:
        for number in range(100):
            log.write(request(number))
            if number % 5 == 4:
                time.sleep(0.03)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["access.log", "access.log.1", "access.log.2", "access.log.3"]
    assert all(path.stat().st_size <= 2000 + 350 * 5 for path in files)
    numbers = [int(line["request_id"][1:]) for path in (files[3], files[2], files[1], files[0]) for line in lines(path)]
    assert numbers == list(range(numbers[0], 100))


def test_a_disk_that_refuses_delays_nobody_and_what_is_lost_is_counted(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    with AccessLog(tmp_path / "file" / "access.log") as log:
        log.write(request())
    assert log.dropped == 1
    assert "cannot be written" in caplog.text
    monkeypatch.setattr(access_log, "MOST_WAITING", 10)
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 60)
    with AccessLog(tmp_path / "access.log") as log:
        for number in range(25):
            log.write(request(number))
    assert (log.dropped, len(lines(log.path))) == (15, 10)


def test_two_processes_write_whole_lines_into_one_file(tmp_path):
    with AccessLog(tmp_path / "access.log") as one, AccessLog(tmp_path / "access.log") as other:
        for number in range(500):
            (one if number % 2 else other).write(request(number))
    assert {line["request_id"] for line in lines(tmp_path / "access.log")} == {f"r{number}" for number in range(500)}
