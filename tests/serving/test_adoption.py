"""Who looks after a process, and how the next supervisor finds it: the list of children, numbers that were reused, and a socket that changes hands."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading

import pytest

from rollout.store import Store
from serving import adoption, handover, process
from serving.adoption import Adopted, Being, Census, Fate, Record
from serving.errors import SettingsError
from serving.supervisor import Settings, Supervisor

GONE = Being(pid=2, born="another boot 0 0")


@pytest.fixture
def somebody():
    """A process of ours that sleeps."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as running:
        yield running
        running.kill()


def being(pid):
    return Being(pid=pid, born=adoption.born(pid))


def record(of, **more):
    return Record(role="model", being=of, fit="f", port=1, **more)


def test_a_list_of_children_comes_back_as_it_was_written_and_none_is_none(tmp_path):
    census = Census(
        supervisor=adoption.myself(),
        children=(record(GONE, version="1", number=2, ready=True), dataclasses.replace(record(GONE), role="gateway", control_port=7)),
        lease={"generation": 3, "until": 1.5, "since": 0.5},
    )
    assert adoption.read(tmp_path) is None
    adoption.write(tmp_path, census)
    assert adoption.read(tmp_path) == census


WHOLE = {
    "format": "firstlight/children/v1",
    "supervisor": dataclasses.asdict(GONE),
    "children": [dataclasses.asdict(record(GONE))],
    "lease": {},
}
BROKEN = {
    "nothing": b"",
    "half": json.dumps(WHOLE).encode()[:60],
    "no-object": b"[1]",
    "not-utf8": b"\xff\xfe",
    "another-format": json.dumps({**WHOLE, "format": "v2"}).encode(),
    "no-supervisor": json.dumps({**WHOLE, "supervisor": None}).encode(),
    "every-process": json.dumps({**WHOLE, "supervisor": {"pid": -1, "born": "x"}}).encode(),
    "the-first-process": json.dumps({**WHOLE, "children": [{**WHOLE["children"][0], "being": {"pid": 1, "born": "x"}}]}).encode(),
    "a-word-for-a-number": json.dumps({**WHOLE, "children": [{**WHOLE["children"][0], "port": "80"}]}).encode(),
    "an-unknown-field": json.dumps({**WHOLE, "children": [{**WHOLE["children"][0], "user": "root"}]}).encode(),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_list_that_cannot_be_understood_is_one_sentence_and_makes_nobody_anybodys(text, tmp_path):
    (tmp_path / adoption.CHILDREN_FILE).write_bytes(text)
    with pytest.raises(SettingsError, match="every process is started anew"):
        adoption.read(tmp_path)
    assert adoption.fate(tmp_path, os.getpid()) is Fate.ORPHANED


def test_a_process_is_kept_disowned_or_orphaned_by_what_the_living_supervisor_wrote(tmp_path, somebody):
    me, other = adoption.myself(), being(somebody.pid)
    adoption.write(tmp_path, Census(supervisor=other, children=(record(me),)))
    assert (adoption.fate(tmp_path, me.pid), adoption.fate(tmp_path, other.pid)) == (Fate.KEPT, Fate.DISOWNED)
    # a supervisor whose number somebody else has by now is dead, and so is one that nobody has buried yet
    adoption.write(tmp_path, Census(supervisor=dataclasses.replace(other, born=GONE.born), children=(record(me),)))
    assert adoption.fate(tmp_path, me.pid) is Fate.ORPHANED
    adoption.write(tmp_path, Census(supervisor=other, children=(record(me),)))
    somebody.kill()
    os.waitid(os.P_PID, somebody.pid, os.WEXITED | os.WNOWAIT)
    assert (other.lives, adoption.fate(tmp_path, me.pid)) == (False, Fate.ORPHANED)
    assert adoption.same_boot(me, other)
    assert not adoption.same_boot(me, GONE)


def test_a_number_that_somebody_else_has_by_now_is_never_signalled(somebody):
    known = being(somebody.pid)
    assert Adopted.of(dataclasses.replace(known, born=known.born + "1")) is None
    assert Adopted.of(GONE) is None
    taken = Adopted.of(known)
    assert taken.ending() is None
    taken.send(signal.SIGTERM)
    assert somebody.wait(20) == -signal.SIGTERM
    assert taken.wait(5)
    taken.send(signal.SIGKILL)  # there is nobody to hear it
    assert taken.ending() == "its process ended"


def test_what_a_process_was_started_with_is_told_apart():
    assert adoption.fitness(["a", "b"]) == adoption.fitness(["a", "b"])
    assert len({adoption.fitness(words) for words in (["a", "b"], ["ab"], ["b", "a"], [])}) == 4


@contextlib.contextmanager
def giving(folder, listener):
    """Stand in the door like a gateway does."""
    door = handover.offer(folder)
    door.setblocking(True)
    thread = threading.Thread(target=handover.give, args=(door, listener), daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.close()


def test_a_listening_socket_changes_hands_with_everybody_who_waits_at_it(tmp_path):
    # Given a state folder whose name is longer than the address of a unix socket may be
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    assert handover.take(folder) is None
    listener = process.bind()
    with giving(folder, listener):
        assert (folder / handover.HANDOVER_FILE).stat().st_mode & 0o777 == 0o600
        with socket.create_connection(("127.0.0.1", process.port_of(listener))) as caller:
            # When it is handed over and the giver is gone
            handed = handover.take(folder)
            listener.close()
            # Then who had connected before is accepted now
            accepted, _ = handed.listener.accept()
            accepted.sendall(b"here")
            assert caller.recv(4) == b"here"
            accepted.close()
    assert handed.pid == os.getpid()
    handed.listener.close()
    assert handover.take(folder) is None


def test_a_folder_that_takes_no_sockets_is_no_reason_not_to_serve(tmp_path):
    assert handover.offer(tmp_path / "nowhere") is None


def test_a_supervisor_that_cannot_start_leaves_what_it_found_running_and_one_that_stops_leaves_nothing(tmp_path, somebody):
    # Given a process that an earlier supervisor has left, and a port that somebody else has
    folder, url = tmp_path / "serving" / "testing" / "tiny", f"sqlite:///{tmp_path / 'state.db'}"
    left = record(being(somebody.pid), version="1", ready=True)
    adoption.write(folder, Census(supervisor=GONE, children=(left,)))
    settings = Settings(environment="testing", models=("tiny",), state=tmp_path, store_url=url, standby=False)
    with contextlib.closing(process.bind()) as taken, pytest.raises(SettingsError, match="must be free"):
        Supervisor(dataclasses.replace(settings, port=process.port_of(taken)))
    # Then it lives, and stands in the list for the next one
    assert somebody.poll() is None
    assert adoption.read(folder).children == (left,)
    with Supervisor(settings):
        assert somebody.poll() is None
        # which knows by now that nobody answers there, and what it took over
        assert [(child.being, child.ready) for child in adoption.read(folder).children] == [(left.being, True)]
    assert somebody.wait(20) == -signal.SIGTERM
    assert not (folder / adoption.CHILDREN_FILE).exists()


def test_what_was_taken_over_goes_on_while_the_store_cannot_be_read(tmp_path, somebody, until):
    folder, database = tmp_path / "serving" / "testing" / "tiny", tmp_path / "state.db"
    port = process.port_of(free := process.bind())
    free.close()
    gateway = dataclasses.replace(record(GONE), role="gateway", port=port, control_port=1)
    adoption.write(folder, Census(supervisor=GONE, children=(gateway, record(being(somebody.pid), version="1", ready=True))))
    with Supervisor(
        Settings(environment="testing", models=("tiny",), state=tmp_path, store_url=f"sqlite:///{database}", standby=False)
    ) as taking:
        # The gateway was killed too: callers find the next one where it was
        assert taking.url == f"http://127.0.0.1:{port}"
        with contextlib.closing(sqlite3.connect(database)) as broken:
            broken.execute("DROP TABLE desired_state")
        until(lambda: taking.tick() or any(child.role == "gateway" and child.ready for child in adoption.read(folder).children), 60)
        for _ in range(3):
            taking.tick()
        assert somebody.poll() is None
        assert [child.version for child in adoption.read(folder).children if child.role == "model"] == ["1"]


def test_a_supervisor_that_finds_a_broken_list_and_a_strangers_number_starts_fresh_and_says_so(tmp_path, somebody, until):
    folder, port = tmp_path / "serving" / "testing" / "tiny", process.port_of(free := process.bind())
    free.close()
    folder.mkdir(parents=True)
    url = f"sqlite:///{tmp_path / 'state.db'}"
    settings = Settings(environment="testing", models=("tiny",), state=tmp_path, store_url=url, standby=False, port=port)
    stranger = dataclasses.replace(being(somebody.pid), born=GONE.born)
    adoption.write(folder, Census(supervisor=GONE, children=(record(stranger, version="1", ready=True),)))
    with contextlib.closing(Store(url)) as store:
        with Supervisor(settings) as fresh:
            fresh.tick()
            assert fresh.url == f"http://127.0.0.1:{port}"
            assert adoption.read(folder).supervisor == adoption.myself()
            assert not store.observed("testing", "tiny").ready
            with pytest.raises(SettingsError, match="one supervisor"):
                Supervisor(settings)
        # a plain stop leaves nothing behind: neither a process nor a word of one
        assert not {path.name for path in folder.iterdir()} & {adoption.CHILDREN_FILE, handover.HANDOVER_FILE}
        (folder / adoption.CHILDREN_FILE).write_bytes(b"{")
        with Supervisor(settings) as fresh:
            fresh.tick()
            assert any("cannot be taken over" in problem for problem in store.observed("testing", "tiny").problems)
    assert somebody.poll() is None
