"""Hand-offs as fixtures: the tiny one, a copy of it that a test may break, and one of spectra, with files for it."""

import multiprocessing
import shutil
import time
import warnings
from pathlib import Path

import pytest

from firstlight.digest import sha256_file, sha256_json
from models.handoff import HandOff, load
from models.registry import Registry
from models.scoring_worker import Desk
from tests.models.registering import registry_in, set_up
from tests.models.scored import post
from tests.models.spectral import write_coadd, write_spectral_handoff
from tests.models.tiny import write_tiny_handoff

_COMPILERS = Path(__file__).parents[2] / "models" / "backends"


@pytest.fixture(scope="session")
def compiled_folder(request: pytest.FixtureRequest) -> Path:
    """Where compiled files of unchanging models may stay from run to run, made by the very code that is there now; read them only.

    They are found again by model, libraries and processor, and verified, as the product does it; two workers wait for each other. Other
    code has another folder, and its old one is removed.
    """
    cache = request.config.cache
    assert cache is not None
    made_by = sha256_json([sha256_file(_COMPILERS / f"compil{ending}.py") for ending in ("er", "ing", "ed")])[:16]
    folder = cache.mkdir(f"compiled-{made_by}")
    for stale in folder.parent.glob("compiled-*"):
        if stale != folder:
            shutil.rmtree(stale, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def tiny_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good hand-off folder of another shape; do not change it, copy it."""
    return write_tiny_handoff(tmp_path_factory.mktemp("handoffs") / "tiny")


@pytest.fixture
def broken(tiny_handoff: Path, tmp_path: Path) -> Path:
    """A copy of the tiny hand-off for a test to break."""
    return shutil.copytree(tiny_handoff, tmp_path / "broken")


@pytest.fixture(scope="session")
def spectral(tmp_path_factory: pytest.TempPathFactory) -> HandOff:
    """The hand-off of a model of spectra."""
    return load(write_spectral_handoff(tmp_path_factory.mktemp("spectral") / "handoff"))


@pytest.fixture(scope="session")
def desk(spectral: HandOff) -> Desk:
    """What a worker process that scores works with."""
    return Desk(post(spectral))


@pytest.fixture
def coadds(tmp_path: Path) -> list[str]:
    """Four good files of five spectra."""
    return [str(write_coadd(tmp_path / f"coadd-{seed}.fits", seed=seed, level=0.5 + seed)) for seed in range(4)]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once, after a process that was making it was killed in the middle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's deprecations; imported here so that no forked process has to
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    file = tmp_path_factory.mktemp("registry") / "made" / "mlflow.db"
    first = multiprocessing.get_context("fork").Process(target=set_up, args=(f"sqlite:///{file}",))
    first.start()
    while not file.with_name(".mlflow.db.new-journal").exists():  # it is there while a transaction is under way
        assert first.is_alive(), "the set-up must be killed, not end by itself"
        time.sleep(0.001)
    first.kill()
    first.join()
    assert file.stat().st_size == 0, "nothing half-made may be where the registry is looked for"
    set_up(f"sqlite:///{file}")
    return file


@pytest.fixture
def place(migrated: Path, tmp_path: Path) -> Path:
    """A folder with an empty registry."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def registry(place: Path) -> Registry:
    """A registry on it."""
    return registry_in(place)


@pytest.fixture(scope="session")
def second_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hand-off of another model of the same name."""
    return write_tiny_handoff(tmp_path_factory.mktemp("handoffs") / "second", seed=2)


@pytest.fixture(scope="session")
def good_archive(tiny_handoff: Path) -> bytes:
    """The bytes of the tiny model."""
    return (tiny_handoff / "model.pt2").read_bytes()
