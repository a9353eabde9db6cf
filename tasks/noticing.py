"""What was changed under a release that waits for people: the clock, and the file that says who the people are."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from firstlight.digest import sha256_bytes, sha256_json
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance.approvers import Approvers, parse_approvers
from governance.documents import read_bounded
from governance.errors import ApproversError, GovernanceError
from governance.subject import APPROVERS_FILE
from rollout.store import Store

CLOCK, CHANGED, REFUSED = "clock-set-back", "approvers-changed", "refused-approvers"
"""What the ledger calls them."""
_BY = "firstlight"
_DISAGREE = timedelta(minutes=5)
"""Clocks of several machines may differ by so much without anybody having set one."""


def moment(settings: Settings, records: Store, *, model: str) -> datetime:
    """Return the moment by which signatures are judged: now, but never before the latest entry of the ledger.

    So a clock that is set back revives no sign-off that has expired. The ledger says so, once for each time it was set back.
    """
    now, latest = datetime.now(UTC), records.latest()
    if latest is None or latest <= now.timestamp():
        return now
    seen = datetime.fromtimestamp(latest, UTC)
    if seen - now > _DISAGREE:
        detail = f"the clock says {now:%Y-%m-%d %H:%M} UTC and the ledger has an entry of {seen:%Y-%m-%d %H:%M}: signatures are judged by the later; set the clock"
        records.record(settings.environment, model, what=CLOCK, digest=sha256_json({"latest": latest}), detail=detail, by=_BY, once=True)
    return seen


def approvers(settings: Settings, records: Store, *, model: str, folder: Path) -> None:
    """Look at the approvers file before anybody's signature is judged by it.

    Where its sha256 is laid down (``approvers_sha256``), it must have that one: raises ApproversError, and the ledger says so. Where it is another than
    when the people of the release in ``folder`` were asked, the ledger says who was added, removed or changed.
    """
    try:
        data = read_bounded(settings.approvers_path, ApproversError)
        after = parse_approvers(data, str(settings.approvers_path))
    except GovernanceError:
        return  # whoever needs it says what is wrong with it
    found, wanted = sha256_bytes(data), settings.approvers_sha256
    if wanted is not None and found != wanted:
        sentence = (
            f"the approvers file must have the sha256 {wanted[:12]} that the settings lay down, {settings.approvers_path} has {found[:12]}: "
            "somebody changed it; restore it, or lay down the new one"
        )
        records.record(settings.environment, model, what=REFUSED, digest=found, detail=sentence, by=_BY, once=True)
        raise ApproversError(sentence)
    try:
        earlier = read_bounded(folder / APPROVERS_FILE, ApproversError)
        before = parse_approvers(earlier, APPROVERS_FILE)
    except RefusedError:
        return  # nobody was asked yet
    if earlier != data:
        detail = f"release {folder.name}: while it waited the approvers file became another one: {'; '.join(_differences(before, after)) or 'spelling only'}"
        records.record(settings.environment, model, what=CHANGED, digest=found, detail=detail, by=_BY, once=True)


def _differences(before: Approvers, after: Approvers) -> list[str]:
    """Say who was added, removed or changed."""
    old, new = ({person.email: person for person in one.approvers} for one in (before, after))
    said = [f"{email} was added" for email in sorted(new.keys() - old.keys())]
    said += [f"{email} was removed" for email in sorted(old.keys() - new.keys())]
    for email in sorted(new.keys() & old.keys()):
        one, other = old[email], new[email]
        keys = {key.public.fingerprint for key in other.keys} ^ {key.public.fingerprint for key in one.keys}
        said += [
            f"{email}: key {fingerprint} was {'added' if fingerprint in {key.public.fingerprint for key in other.keys} else 'removed'}"
            for fingerprint in sorted(keys)
        ]
        if not keys and one != other:
            said.append(f"{email} was changed")
    return said
