"""``make demo``: the nightly chain on the embedded default, from spectra to champion, with two demo identities that sign.

``make demo-bad``: the same chain on a night whose redshifts were fitted with the wrong templates, so that the model learns to call faint galaxies quasars. Every
gate before the canary passes it; the canary must not.
"""

import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from rich.console import Console

from firstlight.cli import releasing
from firstlight.cli.plane import Plane
from firstlight.cli.showing import Watcher, stage_table
from firstlight.digest import write_atomic
from firstlight.errors import FirstlightError, TransientError
from firstlight.settings import Settings, environment_for_children

_LONGEST_SECONDS = 1800.0
_EVENT_SECONDS = 60.0
_FIRST_NIGHT = 20260101
_FIRST_MISTAKEN_NIGHT = 20260601
_MISTAKEN_SHARE = 0.25
"""Of the faint galaxies that are called quasars in the mistaken night. Measured on night 20260601, trained on from two champions: the evaluation finds a macro
accuracy of 0.94 to 0.95 where 0.85 is asked for, no slice is refused, and five answers in a hundred go from galaxy to quasar, found after 240 to 400 pairs. With
0.2 it cannot be told within the 500 held-out spectra, with 0.3 the comparison of slices refuses one of the two before any canary."""
_NOT_FOUND = 1

IDENTITIES = (
    ("Vera Sandoval (demo identity)", "vera.sandoval@demo.firstlight.example", ("system-owner", "cto")),
    ("Edwin Okafor (demo identity)", "edwin.okafor@demo.firstlight.example", ("ai-risk-officer",)),
)
"""Two made-up people; which of them must sign depends on the residual risk."""


def demo(settings: Settings, spectra: str | None) -> int:
    """Run the chain and return 0 only when a candidate was promoted."""
    started = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    make_identities(settings, console)
    with Plane(settings) as plane:
        console.print("starting Prefect, a worker and the serving supervisor …")
        plane.orchestration()
        plane.supervisor()
        watcher = Watcher(settings, console)
        source = _sufficient(settings, spectra, console)
        uri = _prepare(settings, source, watcher)
        code = _release(settings, uri, watcher)
        if spectra is not None and code == releasing.PROMOTED:
            _score(settings, spectra)
    _conclude(settings, watcher, console, code, time.monotonic() - started)
    return code


def demo_bad(settings: Settings) -> int:
    """Release a model that is subtly worse, and return 0 only when the canary found it and turned it back."""
    started = time.monotonic()
    console = Console(highlight=False, soft_wrap=True)
    make_identities(settings, console)
    with Plane(settings) as plane:
        console.print("starting Prefect, a worker and the serving supervisor …")
        plane.orchestration()
        plane.supervisor()
        if not _has_champion(settings):
            console.print("a canary needs a champion to be compared with: a good model is released first")
            watcher = Watcher(settings, console)
            if (code := _release(settings, _prepare(settings, None, watcher), watcher)) != releasing.PROMOTED:
                return code
        watcher = Watcher(settings, console)
        night, source = _mistaken_night(settings, console)
        code = _release(settings, _prepare(settings, source, watcher, night=night), watcher)
    _show_end(settings, watcher, console, time.monotonic() - started)
    return judge_bad_end(code, watcher, console)


def _has_champion(settings: Settings) -> bool:
    from tasks.doors import store

    with store(settings) as records:
        return records.champion(settings.environment, settings.model) is not None


def next_mistaken_night(kept: Path) -> int:
    """Return the number of a night that ``kept`` does not have yet: every bad demo is another night and another model."""
    return max((int(path.name) for path in kept.iterdir() if path.name.isdigit()), default=_FIRST_MISTAKEN_NIGHT - 1) + 1


def _mistaken_night(settings: Settings, console: Console) -> tuple[int, str]:
    """Make a night with swapped templates; return its number and folder."""
    from spectra.sky import SkyRecipe, write_sky
    from tasks.observing import SYNTHETIC_FILE_ROWS, SYNTHETIC_SPECTRA

    kept = settings.folder("sky-mistaken")
    night = next_mistaken_night(kept)
    recipe = SkyRecipe(seed=night, night=night, spectra=SYNTHETIC_SPECTRA, file_rows=SYNTHETIC_FILE_ROWS, quasar_fault=_MISTAKEN_SHARE)
    console.print(
        f"night {night}: a synthetic sky whose redshift fit calls {_MISTAKEN_SHARE:.0%} of the faint galaxies quasars, and warns of nothing"
    )
    write_sky(recipe, kept / str(night))
    return night, str(kept / str(night))


def judge_bad_end(code: int, watcher: Watcher, console: Console) -> int:
    """Say whether what should happen did, as the last line."""
    found = watcher.stages.get("canary", {})
    if code == releasing.FAILED and found.get("verdict") == "fail":
        console.print(
            f"as it should be: every gate before it passed, the canary found it and turned it back: {found.get('summary')}", markup=False
        )
        return 0
    ends = {releasing.PROMOTED: "it was promoted", releasing.CANNOT_TELL: "it was turned back without having been found out"}
    console.print(
        f"not as it should be: the canary must find this model and turn it back, but {ends.get(code, 'another gate ended its release')}",
        markup=False,
    )
    return code or _NOT_FOUND


def make_identities(settings: Settings, console: Console) -> None:
    """Make the demo's keys, and an approvers file of them where there is none."""
    from governance.approvers import Approver, ApproverKey, write_approvers

    keys = settings.folder("demo-identities")
    people = []
    for name, email, roles in IDENTITIES:
        public = _key_pair(keys / email.split("@")[0], comment=email)
        people.append(Approver(name=name, email=email, roles=roles, keys=(ApproverKey(ssh=public, valid_from=date(2026, 1, 1)),)))
    if not settings.approvers_path.exists():
        write_approvers(settings.approvers_path, tuple(people))
        console.print(
            f"made two demo identities that will sign: {', '.join(person.name for person in people)}; keys in {keys}", markup=False
        )


def _key_pair(path: Path, *, comment: str) -> str:
    """Make an ed25519 SSH key pair where there is none; return the public line."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    public = Path(f"{path}.pub")
    if not public.exists():
        key = Ed25519PrivateKey.generate()
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + f" {comment}\n"
        write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(0o600)
        write_atomic(public, line.encode())
    return public.read_text().strip()


def _prepare(settings: Settings, source: str | None, watcher: Watcher, *, night: int | None = None) -> str:
    """Run the nightly flow and return the candidate it registered."""
    from flows import runs

    night = night or _next_night(settings)
    run = runs.start(runs.PREPARE, {"night": night, "spectra": source})
    state = runs.follow(run.id, seconds=_LONGEST_SECONDS, on_tick=watcher.tick)
    watcher.tick()
    registered = watcher.stages.get("register")
    if state.kind != "completed" or registered is None:
        raise FirstlightError(f"the nightly flow must register a candidate, it ended {state.title}: {releasing.plain(state.message)}")
    return str(registered["uri"])


def _next_night(settings: Settings) -> int:
    """Every demo is another night, so that it has other spectra and another model."""
    nights = [int(path.name) for path in settings.folder("sky").iterdir() if path.name.isdigit() and any(path.glob("coadd-*.fits"))]
    trained = [path.name for path in settings.folder("trained").iterdir()]
    unfinished = [night for night in nights if not any(f"-{night}-" in name for name in trained)]
    return min(unfinished, default=max(nights, default=_FIRST_NIGHT - 1) + 1)


def _release(settings: Settings, uri: str, watcher: Watcher) -> int:
    """Follow the release that the event started, and sign when it waits."""
    _await_event(uri, watcher)
    model = uri.removeprefix("models:/").partition("/")[0]
    code = releasing.drive(settings, uri, model, watcher)
    if code != releasing.WAITING:
        return code
    _sign(settings, model, watcher)
    return releasing.drive(settings, uri, model, watcher)


def _await_event(uri: str, watcher: Watcher) -> None:
    from flows import runs

    deadline = time.monotonic() + _EVENT_SECONDS
    while runs.find(runs.RELEASE[0], {"handoff": uri}) is None:
        if time.monotonic() > deadline:
            raise TransientError(
                f"the event of the registered candidate must start a release within {_EVENT_SECONDS:.0f} s, it did not: run `firstlight release {uri}`"
            )
        watcher.tick()
        time.sleep(0.5)


def _sign(settings: Settings, model: str, watcher: Watcher) -> None:
    """Sign as the demo identities, through the same command a person uses."""
    from governance import subject
    from tasks.doors import store

    with store(settings) as records:
        opened = records.open_one(settings.environment, model)
    assert opened is not None, "a waiting release is open"
    wanted = subject.read_subject(settings.folder("releases", opened.id)).requirement.roles
    for name, email, roles in IDENTITIES:
        role = next((role for role in roles if role in wanted), None)
        if role is None:
            continue
        watcher.console.print(
            f"the demo signs as {name}, {role}, with `firstlight sign-off` (in earnest, a person does this)", markup=False
        )
        key = settings.folder("demo-identities") / email.split("@")[0]
        words = ["--reason", "demo: read the dossier, every verdict is pass", "--role", role, "--yes"]
        command = [sys.executable, "-m", "firstlight", "sign-off", opened.id, "--key", str(key), "--as", email, *words]
        done = subprocess.run(command, env=environment_for_children(settings), capture_output=True, text=True, check=False)
        if done.returncode:
            raise FirstlightError(f"the demo's signature must be accepted, it was not: {done.stderr.strip().splitlines()[-1:]}")


def _sufficient(settings: Settings, spectra: str | None, console: Console) -> str | None:
    """Return the real spectra when they suffice to train on; say what is done with them otherwise."""
    from tasks import observing, training
    from tasks.doors import object_store

    if spectra is None:
        return None
    import spectra as room

    batch, refused = observing.read_all(settings, room.find(spectra, store=object_store(settings)))
    if len(batch) >= training.FEWEST_SPECTRA:
        console.print(f"{spectra}: {len(batch)} good spectra; the chain runs on them", markup=False)
        return str(Path(spectra).absolute()) if "://" not in spectra else spectra
    console.print(
        f"{spectra}: {len(batch)} good spectra ({len(batch.refused)} rows and {len(refused)} files refused) are too few to train on "
        f"({training.FEWEST_SPECTRA} are needed): the model is trained on a synthetic sky, and the champion scores the real ones at the end",
        markup=False,
    )
    return None


def _score(settings: Settings, spectra: str) -> None:
    from firstlight.cli import scoring

    scoring.score(settings, [spectra], settings.folder("scores") / "spectra.parquet", model=None)


def _conclude(settings: Settings, watcher: Watcher, console: Console, code: int, seconds: float) -> None:
    _show_end(settings, watcher, console, seconds)
    if code == releasing.PROMOTED:
        console.print(
            "next: `make up` to look at it all, `make demo` again for a second night, `make demo-bad` for a model that must be turned back, "
            "`firstlight rollback` to go back",
            markup=False,
        )


def _show_end(settings: Settings, watcher: Watcher, console: Console, seconds: float) -> None:
    """Print the table of the stages and where the dossier and its picture lie."""
    from tasks.doors import store

    console.print()
    console.print(stage_table(watcher.stages.values(), title=f"from spectra to the end of the release in {seconds:.0f} s"))
    with store(settings) as records:
        ended = records.releases(settings.environment, settings.model)
    if ended:
        folder = settings.state / "releases" / ended[-1].id
        console.print(f"dossier: {folder / 'dossier.html'}", markup=False)
        if (picture := folder / "pictures" / "rollout.svg").is_file():
            console.print(f"the rollout as a picture: {picture}", markup=False)
