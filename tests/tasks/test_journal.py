"""The journal a person watches, and the one rule of retrying."""

from pathlib import Path

import pytest
from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Failed

from firstlight import settings
from firstlight.errors import RefusedError, TransientError
from firstlight.settings import Settings
from tasks import journal, retries
from tasks.stages import artifact_key


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings.load(state_dir=tmp_path)


def test_a_reader_sees_what_is_noted_after_it_began_and_each_line_once(here: Settings) -> None:
    journal.note(here, about="r", stage="data", event="started")
    reader = journal.Reader.from_now(here)
    journal.note(here, about="r", stage="data", event="finished", verdict="pass", summary="good")
    assert [line["event"] for line in reader.new()] == ["finished"]
    assert list(reader.new()) == []


def test_a_line_that_is_still_being_written_waits(here: Settings) -> None:
    reader = journal.Reader.from_now(here)
    journal.path(here).write_text('{"event": "started", "stage": "data"')
    assert list(reader.new()) == []
    with open(journal.path(here), "a") as stream:
        stream.write("}\nnot json\n")
    assert [line["event"] for line in reader.new()] == ["started"]


def test_a_very_long_summary_is_cut_so_that_a_line_is_one_write(here: Settings) -> None:
    journal.note(here, about="r", stage="data", event="failed", summary="x" * 100_000)
    assert journal.path(here).stat().st_size < 4096


@pytest.mark.parametrize(("error", "again"), [(TransientError("down"), True), (RefusedError("wrong"), False), (ValueError("bug"), False)])
def test_only_what_may_succeed_unchanged_is_tried_again(error: Exception, again: bool) -> None:
    state: State[object] = Failed(data=error)
    assert retries.is_transient(task(lambda: None), None, state) is again  # type: ignore[arg-type]


def test_artifact_keys_are_what_prefect_accepts() -> None:
    assert artifact_key("desi-vae-Hand_Off (2)") == "desi-vae-hand-off-2"
