"""Callers who come in thousands, dawdle, vanish, or ask more than can be answered: bounded memory, right codes, and all others are served."""

import contextlib
import resource
import socket
import struct
import time
from collections import Counter

import httpx
import pytest

from benchmarks.soak.callers import Caller, Idle, answers_to, crowd, question, request, statuses
from tests.serving.hard.conftest import OPTIONS, SIGNAL

HEADERS, BODY = question(SIGNAL)
DAWDLERS = 40


@pytest.fixture(scope="module", autouse=True)
def dawdlers(house):
    """Connections on which a request is begun at the start of this file and never ended: half a head, or half a body, a byte now and then."""
    began, made = time.monotonic(), []
    for door in ("gateway", "model"):
        for number in range(DAWDLERS):
            connection = house.connect(door)
            whole = request(house.path, HEADERS, BODY)
            connection.sendall(whole[: whole.index(b"content-length") - 3] if number % 2 else whole[: whole.index(b"\r\n\r\n") + 100])
            made.append(connection)
    yield began, made
    for connection in made:
        connection.close()


def abort(connection: socket.socket) -> None:
    """Leave without a word: the other side finds a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_ten_thousand_idle_connections_keep_nobody_out(house, bystander):
    wanted = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        before = house.memory()["gateway"]
        with Idle(house, "gateway", wanted) as idle:
            if idle.count < wanted:
                pytest.skip(f"this machine allows {idle.count} connections only")
            after = house.memory()["gateway"]
            # the last of them are there; the gateway's own limit may have closed the oldest ones to make room
            assert idle.open_still() > wanted - 200
            assert httpx.post(f"{house.url('gateway')}{house.path}", content=BODY, headers=HEADERS, trust_env=False).status_code == 200
            assert after - before < 160, f"{(after - before) * 1024 / wanted:.1f} KiB a connection"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_callers_who_vanish_in_the_middle_of_a_request_leave_nothing_behind(house, door, bystander, until):
    whole = request(house.path, HEADERS, BODY)
    for cut in (10, len(whole) - 601, len(whole) - 300, len(whole) - 1):
        for _ in range(25):
            connection = house.connect(door)
            connection.sendall(whole[:cut])
            abort(connection)
    until(lambda: house.metric("model", "firstlight_queue_bytes") <= DAWDLERS * 600 + 2000, 20)


def test_callers_who_vanish_before_they_read_the_answer_leave_nothing_behind(house, door, bystander, until):
    large = request(house.path, *question({"signal": SIGNAL["signal"].repeat(4000, axis=0)}))
    for number in range(30):
        connection = house.connect(door)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(large if number % 3 == 0 else request(house.path, HEADERS, BODY))
        if number % 2:
            connection.recv(10)
        abort(connection)
    until(lambda: house.metric("model", "firstlight_queue_requests") <= 1, 20)


def test_a_queue_kept_full_answers_200_or_503_with_a_time_to_come_again(house):
    inputs = {"signal": SIGNAL["signal"].repeat(300, axis=0)}
    queue = OPTIONS["model"]["queue_requests"]
    with crowd(house, "gateway", inputs, size=queue + 8, pause=0.02) as seen:
        for _ in range(6):
            assert httpx.get(f"{house.url('model')}/v2/health/ready", trust_env=False, timeout=10).status_code == 200
            assert httpx.get(f"{house.url('gateway')}/v2/health/live", trust_env=False, timeout=10).status_code == 200
            time.sleep(0.2)
    assert seen.failures == []
    assert set(seen.codes) == {200, 503}, seen.codes
    assert seen.without_retry_after == 0
    # and when the crowd is gone the next one is answered
    with Caller(house, "gateway", SIGNAL) as caller:
        time.sleep(0.5)
    assert set(caller.seen.codes) == {200}


def test_who_dawdles_is_told_so_and_sent_away(house, dawdlers):
    began, connections = dawdlers
    while (left := 23 - (time.monotonic() - began)) > 0:
        for connection in connections[::7]:
            with contextlib.suppress(OSError):
                connection.send(b"x")
        time.sleep(min(left, 1))
    told = Counter(tuple(statuses(answers_to(connection, seconds=3))) for connection in connections)
    assert set(told) <= {(408,), ()}, told
    assert told[(408,)] > DAWDLERS, told
