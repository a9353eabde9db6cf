"""The night's work: spectra in, a registered candidate out. Its registration is the event that starts ``release_model``."""

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from firstlight.verdict import Verdict
from tasks import observing, registering, training
from tasks.outcomes import TITLE


@flow(name="prepare-candidate", flow_run_name="night {night}", persist_result=True, result_serializer="json")
def prepare_candidate(night: int | None = None, spectra: str | None = None, warm_start: bool = True) -> State[Any]:
    """Read the spectra of a night (yyyymmdd; tonight when left out), train, and register the candidate.

    ``spectra`` is a folder, file or s3:// prefix; left out, the settings decide. ``warm_start`` trains on from the champion's weights.
    """
    tonight = night or int(datetime.now(UTC).strftime("%Y%m%d"))
    found = observing.observe(spectra, tonight)
    report = observing.validate(found)
    if report.verdict is not Verdict.PASS:
        return Failed(name=TITLE[report.verdict], message=report.summary)
    handoff = training.train(found, warm_start=warm_start)
    version = registering.register_candidate(handoff)
    return Completed(name="Registered", message=f"version {version.version} of {version.name} is the candidate", data=version.uri)
