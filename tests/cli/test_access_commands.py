"""Keys by command: shown once, stored as hash, and a file whose comments survive."""

import hashlib
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from firstlight import settings
from firstlight.cli import access, access_commands, app  # noqa: F401 - access_commands registers the commands
from firstlight.errors import FirstlightError, RefusedError
from serving import access_document, access_editing
from serving.access import Access, Action, Refused
from serving.access_editing import NewClient
from tasks.doors import store

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
KEY = re.compile(r"fl_[a-z2-7]{10}_[A-Za-z0-9_-]{43}")
WRITTEN = """# Owner: platform team. CR-2027-014.
format: firstlight/access/v1
limits:
  requests_per_second: 50   # the lab's default
clients:
  - name: survey            # nightly survey
    roles: [reader]
    models: ["desi-*"]
    keys:
      - id: aaaaaaaaaa
        sha256: a86e1ff7ace85cae450c9b0405b75538720ff8803c5ff573aa29d598cb4ac630   # Vera has it
        expires: 2027-06-30
proxies: ["10.25.20.0/24"]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "current", lambda: settings.Settings(state_dir=tmp_path))
    return tmp_path / "access.yaml"


def say(*words: str) -> str:
    """Return what a command says on standard output; errors come through."""
    result = CliRunner().invoke(app, ["access", *words], catch_exceptions=True)
    if isinstance(result.exception, FirstlightError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def status(file: Path, key: str, *, model: str = "desi-vae", at: datetime) -> int:
    try:
        Access(file).admit({"authorization": f"Bearer {key}"}, action=Action.INFER, model=model, now=at.timestamp())
    except Refused as refused:
        return refused.status
    return 200


def test_a_key_is_shown_once_alone_and_stored_as_hash(here: Path) -> None:
    key = say("add", "portal", "--role", "reader", "--model", "desi-*", "--expires", "30d", "--note", "the web portal").strip()
    assert KEY.fullmatch(key)
    text = here.read_text()
    assert key not in text
    assert key[-43:] not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text
    assert here.stat().st_mode & 0o077 == 0
    now = datetime.now(UTC)
    assert [status(here, key, at=now + timedelta(days=days)) for days in (0, 29, 31)] == [200, 200, 401]
    assert status(here, key, model="sdss-vae", at=now) == 404
    assert key not in say("list") + say("list", "--json")
    assert json.loads(say("list", "--json"))[0]["keys"][0]["counts"] is True


def test_rotation_gives_another_key_and_lets_the_old_one_end(here: Path) -> None:
    old = say("add", "portal", "--role", "reader", "--model", "desi-vae").strip()
    new = say("rotate", "portal", "--grace", "3").strip()
    now = datetime.now(UTC)
    assert [status(here, key, at=now + timedelta(days=days)) for key in (old, new) for days in (0, 4)] == [200, 401, 200, 200]
    # A second rotation gives the old key no longer life
    say("rotate", "portal", "--grace", "30")
    assert status(here, old, at=now + timedelta(days=4)) == 401


def test_a_revoked_key_counts_no_more_and_the_others_do(here: Path) -> None:
    first = say("add", "portal", "--role", "reader", "--model", "desi-vae").strip()
    second = say("rotate", "portal").strip()
    say("revoke", "portal", "--key", first.split("_")[1])
    now = datetime.now(UTC)
    assert [status(here, key, at=now) for key in (first, second)] == [401, 200]
    say("revoke", "portal")
    assert status(here, second, at=datetime.now(UTC)) == 401
    with pytest.raises(FirstlightError, match="none does"):
        say("revoke", "portal")


def test_what_people_wrote_into_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(WRITTEN)
    file.chmod(0o640)
    access_editing.add(file, NewClient(name="portal", roles=["reader"], models=["*"], expires=NOW + timedelta(days=1)), now=NOW)
    access_editing.rotate(file, "survey", now=NOW, expires=None, until=NOW + timedelta(days=7))
    access_editing.revoke(file, "portal", now=NOW)
    after = file.read_text()
    for line in WRITTEN.splitlines():
        if "expires" not in line:
            assert " ".join(line.split()) in " ".join(after.split())
    assert file.stat().st_mode & 0o777 == 0o640
    document = access_document.read(file)
    survey, portal = document.clients
    assert [key.expires and key.expires.isoformat() for key in survey.keys] == ["2027-01-22T08:00:00+00:00", None]
    assert portal.keys[0].revoked == NOW


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(WRITTEN)
    link = tmp_path / "access.yaml"
    link.symlink_to("real.yaml")
    access_editing.revoke(link, "survey", now=NOW)
    assert link.is_symlink()
    assert access_document.read(link).clients[0].keys[0].revoked == NOW


def test_commands_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"

    def work(number: int) -> None:
        access_editing.add(file, NewClient(name=f"client-{number}", roles=["reader"], models=["*"]), now=NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {client.name for client in access_document.read(file).clients} == {f"client-{number}" for number in range(8)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "portal", "--role", "root", "--model", "m"), "'reader', 'operator', 'approver' or 'admin'"),
        (("add", "Portal", "--role", "reader", "--model", "m"), "clients.0.name"),
        (("add", "portal", "--role", "reader", "--model", "M"), "clients.0.models"),
        (("add", "canary-replay", "--role", "reader", "--model", "m"), "our own processes"),
        (("add", "portal", "--role", "reader", "--model", "m", "--expires", "soon"), "days from now"),
        (("add", "portal", "--role", "reader", "--model", "m", "--expires", "2020-01-01"), "in the future"),
        (("rotate", "portal"), "readable"),
        (("revoke", "portal"), "readable"),
        (("list",), "readable"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(here: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(FirstlightError, match=re.escape(said)):
        say(*words)
    assert not here.exists()


def test_a_name_is_given_once_and_unknown_names_are_said(here: Path) -> None:
    say("add", "portal", "--role", "reader", "--model", "m")
    before = here.read_bytes()
    with pytest.raises(RefusedError, match="firstlight access rotate portal"):
        say("add", "portal", "--role", "admin", "--model", "*")
    with pytest.raises(RefusedError, match="it has portal"):
        say("revoke", "nobody")
    with pytest.raises(RefusedError, match="access list"):
        say("revoke", "portal", "--key", "bbbbbbbbbb")
    assert here.read_bytes() == before


def test_check_says_what_a_gateway_would_and_what_is_worth_a_look(here: Path, tmp_path: Path) -> None:
    say("add", "portal", "--role", "admin", "--model", "*")
    told = say("check")
    assert "never expires" in told
    assert "past every sign-off" in told
    assert "a gateway would take it" in told
    broken = tmp_path / "broken.yaml"
    broken.write_text("format: firstlight/access/v1\nclients: 5\n")
    result = CliRunner().invoke(app, ["access", "check", str(broken)])
    assert result.exit_code == access.FAULTY == 2
    assert "clients: Input should be" in result.output


def test_the_example_in_deployments_is_one_that_a_gateway_takes() -> None:
    folder = settings.ROOT / "deployments" / "access"
    document = access_document.read(folder / "example.yaml")
    assert {client.name for client in document.clients} == {"desi-portal", "sdss-survey", "hydrogen-line", "prometheus", "on-call"}
    assert access_editing.warnings(document, now=datetime(2026, 11, 23, tzinfo=UTC)) == [
        "on-call: admin may send traffic past every sign-off"
    ]
    # and the page about it quotes its parts word for word
    page = (settings.ROOT / "docs" / "access.md").read_text()
    quoted = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.S) if "# example.yaml" in block]
    assert len(quoted) >= 3
    for block in quoted:
        parts = yaml.safe_load(block)
        for name, value in parts.items():
            assert value == yaml.safe_load((folder / "example.yaml").read_text())[name], name


@pytest.mark.parametrize("command", ["add", "list", "revoke", "rotate", "check"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, ["access", command, "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 200


def test_every_change_of_who_may_ask_stands_in_the_ledger_without_a_secret(here: Path) -> None:
    key = say("add", "survey", "--role", "reader", "--model", "desi-*").strip()
    say("rotate", "survey")
    say("revoke", "survey")
    with store(settings.current()) as records:
        told = [(entry.what, entry.detail, entry.digest) for entry in records.ledger()]
    assert [what for what, *_ in told] == ["access-added", "access-rotated", "access-revoked"]
    assert told[0][1] == f"survey is reader of desi-*, key {key.split('_')[1]}"
    assert told[-1][2] == hashlib.sha256(here.read_bytes()).hexdigest()
    assert not any(key.split("_", 2)[2] in detail for _, detail, _ in told)
