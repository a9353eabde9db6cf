"""Who signed this, and may they? The rules that hold for every signature of a person: sign-offs, break-glass and waivers alike. Pure."""

from datetime import date

from governance import sshsig
from governance.approvers import Approver, ApproverKey, Approvers, same_person_email, same_person_name
from governance.policy import RiskPolicy
from governance.signed import Signed
from governance.subject import Person


class Refusal(Exception):
    """The signed words do not count; the message says why."""


def check_listed(approvers: Approvers, signer: str) -> Approver:
    """Return the person of this address. Raises Refusal when nobody of that address is listed."""
    person = approvers.by_email(signer)
    if person is None:
        raise Refusal(f"{signer[:200]!r} must be in the approvers file, found nobody of that address: only listed people may sign")
    return person


def check_key(signed: Signed, person: Approver, *, namespace: str) -> ApproverKey:
    """Return the listed key that signed ``signed`` for ``namespace``. Raises Refusal or SignatureError."""
    used = sshsig.parse(signed.signature).key
    key = next((key for key in person.keys if key.public == used), None)
    if key is None:
        listed = ", ".join(key.public.fingerprint for key in person.keys)
        raise Refusal(f"{person.email} must sign with a key listed for them ({listed}), found {used.fingerprint}")
    sshsig.verify(signed.statement, signed.signature, key=key.public, namespace=namespace)
    return key


def check_in_force(key: ApproverKey, *, signed: date, today: date) -> None:
    """Raise Refusal when a signature of ``key`` dated ``signed`` does not count on ``today``."""
    why = key.refusal(signed=signed, today=today)
    if why is not None:
        raise Refusal(why)


def check_person(person: Approver, name: str, *, trainer: Person | None, policy: RiskPolicy) -> None:
    """Raise Refusal unless ``person`` is a named person, signs under ``name``, and did not train the model."""
    local = person.email.split("@")[0]
    nobody = [given for given in (person.name, name) if policy.is_placeholder(given)] + [local] * policy.is_placeholder_word(local)
    if nobody:
        raise Refusal(
            f"an approver must be a named person, found {nobody[0][:80]!r}: put the person's own name and address into the approvers file"
        )
    if same_person_name(name) != same_person_name(person.name):
        raise Refusal(f"the statement must bear the name in the approvers file ({person.name!r}), found {name[:80]!r}")
    if trainer is not None and is_same_person(person, trainer):
        raise Refusal(f"{person.name} trained this model and must not approve it: ask somebody else")


def is_same_person(person: Approver, other: Person) -> bool:
    """Say whether ``other`` is ``person``, by key, address or name."""
    same_key = any(key.public.fingerprint in other.fingerprints for key in person.keys)
    same_email = same_person_email(person.email) == same_person_email(other.email)
    return same_key or same_email or same_person_name(person.name) == same_person_name(other.name)


def check_words(words: str, *, what: str, policy: RiskPolicy) -> None:
    """Raise Refusal unless ``words`` (a reason, a condition, a control: ``what``) are somebody's own and of a length that is read."""
    if not words.strip():
        raise Refusal(f"{what} must be given, found none: say in a sentence why")
    if len(words) > policy.longest_reason:
        raise Refusal(f"{what} must have at most {policy.longest_reason} characters, found {len(words)}: shorten it")
    if policy.is_unwritten(words):
        raise Refusal(f"{what} must be written out, found the placeholder {words[:60]!r}: say it in a sentence, with a real name or date")
