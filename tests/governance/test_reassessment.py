"""What is due about a live release, and which incidents a look opens and resolves: over all cases, by any clock, by any number of lookers."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from governance import incident_plan, reassessment
from governance.approvers import Approvers
from governance.incident_plan import Known
from governance.reassessment import Approval, Emergency, Kind, Obligation, Present, ReassessmentPolicy, SignedOff, Waived
from tests.governance.conftest import Human

SIGNED = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
SOON, LATER = SIGNED + timedelta(days=7), SIGNED + timedelta(days=14)
RULES = ReassessmentPolicy()


@pytest.fixture
def signed(humans: dict[str, Human]) -> SignedOff:
    vera = humans["vera"].approver
    approval = Approval(
        name=vera.name,
        email=vera.email,
        role="ai-risk-officer",
        fingerprint=vera.keys[0].public.fingerprint,
        signed_at=SIGNED,
        conditions=("Keep quasars at low S/N on watch.", "Measure recall again by 2026-12-10."),
    )
    return SignedOff(
        release="desi-vae-ab12",
        version="7",
        band="Medium",
        model_digest="1" * 64,
        policy_digest="2" * 64,
        scenarios_digest="3" * 64,
        approvals=(approval,),
        waivers=(Waived(id="W1", scenario="R05", until=SOON),),
        emergency=Emergency(at=SIGNED, ratify_until=SIGNED + timedelta(hours=72), ratified=False),
    )


@pytest.fixture
def present(approvers: Approvers) -> Present:
    return Present(model_digest="1" * 64, policy_digest="2" * 64, scenarios_digest="3" * 64, approvers=approvers, waived_until={})


def due(signed: SignedOff, present: Present, *, rules: ReassessmentPolicy = RULES) -> dict[Kind, Obligation]:
    found = reassessment.obligations(signed, present, rules)
    assert len({one.cause for one in found}) == len(found)
    return {one.kind: one for one in found}


def without(approvers: Approvers, email: str, change: Callable[..., object] | None = None) -> Approvers:
    """The approvers file with one person left out, or changed."""
    people = [person if person.email != email else change and change(person) for person in approvers.approvers]
    return Approvers.model_validate({"format": approvers.format, "approvers": [person for person in people if person]})


@pytest.mark.parametrize(("band", "days"), [("Low", 365), ("Medium", 365), ("Medium-High", 365), ("High", 91)])
def test_a_release_is_due_yearly_and_quarterly_at_high_from_the_last_time_people_answered_for_it(
    signed: SignedOff, present: Present, band: str, days: int
) -> None:
    signed = replace(signed, band=band)
    first = due(signed, present)[Kind.INTERVAL]
    assert first.due_at == SIGNED + timedelta(days=days)
    assert [first.is_due(first.due_at + timedelta(seconds=seconds)) for seconds in (-1, 0)] == [False, True]
    again = due(signed, replace(present, reassessed=(LATER,)))[Kind.INTERVAL]
    assert (again.due_at, again.cause != first.cause) == (LATER + timedelta(days=days), True)


def test_a_release_that_only_broke_the_glass_is_due_by_that_day_and_one_nobody_answered_for_has_no_date(
    signed: SignedOff, present: Present
) -> None:
    bare = replace(signed, approvals=())
    assert due(bare, present)[Kind.INTERVAL].due_at == SIGNED + timedelta(days=365)
    assert Kind.INTERVAL not in due(replace(bare, emergency=None), present)


def test_every_combination_of_material_changes_is_found_and_nothing_else(signed: SignedOff, present: Present) -> None:
    fields = {Kind.POLICY: "policy_digest", Kind.SCENARIOS: "scenarios_digest", Kind.MODEL: "model_digest"}
    for changed in itertools.product([False, True], repeat=3):
        kinds = {kind for kind, is_changed in zip(fields, changed, strict=True) if is_changed}
        found = due(signed, replace(present, **{fields[kind]: "f" * 64 for kind in kinds}))  # type: ignore[arg-type]
        assert kinds == set(found) & set(fields)
        assert all(found[kind].due_at is None and "ffffffffffff" in found[kind].summary for kind in kinds)
    once, twice = (due(signed, replace(present, policy_digest=digit * 64))[Kind.POLICY].cause for digit in "ef")
    assert once != twice, "an answer to one change is none to the next"


def test_a_signer_who_left_lost_the_role_or_changed_keys_is_found_and_a_new_colleague_is_not(
    signed: SignedOff, present: Present, approvers: Approvers, humans: dict[str, Human]
) -> None:
    vera, annie = humans["vera"].approver, humans["annie"].approver
    changes = {
        "in it no more": None,
        "does not hold the role": lambda person: person.model_copy(update={"roles": ("system-owner",)}),
        "has another key": lambda person: person.model_copy(update={"keys": humans["henrietta"].approver.keys}),
    }
    for said, change in changes.items():
        others = without(without(approvers, humans["henrietta"].approver.email), vera.email, change)
        found = due(signed, replace(present, approvers=others))
        assert said in found[Kind.SIGNER].summary
        assert found[Kind.SIGNER].is_due(SIGNED)
    assert Kind.SIGNER not in due(signed, replace(present, approvers=without(approvers, annie.email)))


def test_a_key_that_is_revoked_later_is_due_from_that_day_and_one_that_only_ended_is_not(
    signed: SignedOff, present: Present, approvers: Approvers, humans: dict[str, Human]
) -> None:
    def with_key(**dates: date) -> Present:
        vera = humans["vera"].approver
        key = vera.keys[0].model_copy(update=dates)
        return replace(present, approvers=without(approvers, vera.email, lambda person: person.model_copy(update={"keys": (key,)})))

    found = due(signed, with_key(revoked=date(2026, 12, 1)))
    assert (found[Kind.KEY].due_at, found[Kind.KEY].severity) == (datetime(2026, 12, 1, tzinfo=UTC), "critical")
    assert Kind.SIGNER not in found
    assert not {Kind.KEY, Kind.SIGNER} & set(due(signed, with_key(valid_until=date(2026, 11, 30))))


def test_a_waiver_is_due_when_it_ends_unless_it_was_renewed(signed: SignedOff, present: Present) -> None:
    assert due(signed, present)[Kind.WAIVER].due_at == SOON
    renewed = due(signed, replace(present, waived_until={"R05": LATER, "R07": SIGNED}))[Kind.WAIVER]
    assert (renewed.due_at, renewed.cause) == (LATER, due(signed, present)[Kind.WAIVER].cause)
    assert due(signed, replace(present, waived_until={"R05": SIGNED}))[Kind.WAIVER].due_at == SOON


def test_a_condition_is_due_when_the_day_it_names_has_passed(signed: SignedOff, present: Present) -> None:
    found = [one for one in reassessment.obligations(signed, present, RULES) if one.kind is Kind.CONDITION]
    assert [one.due_at for one in found] == [datetime(2026, 12, 11, tzinfo=UTC)]
    assert "Measure recall again by 2026-12-10." in found[0].summary


@pytest.mark.parametrize(
    ("sentence", "day"),
    [
        ("from 2026-12-01 to 2027-02-01", date(2027, 2, 1)),
        ("by 2026-02-30", None),
        ("ticket 12026-12-011", None),
        ("soon", None),
        ("", None),
    ],
)
def test_only_a_day_that_exists_is_a_date(sentence: str, day: date | None) -> None:
    assert reassessment.last_day(sentence) == day


def test_a_break_glass_is_due_until_it_is_ratified(signed: SignedOff, present: Present) -> None:
    assert due(signed, present)[Kind.RATIFICATION].due_at == SIGNED + timedelta(hours=72)
    assert signed.emergency is not None
    assert Kind.RATIFICATION not in due(replace(signed, emergency=replace(signed.emergency, ratified=True)), present)
    assert Kind.RATIFICATION not in due(replace(signed, emergency=None), present)


NOW = SIGNED + timedelta(days=30)
DUE = {"at once": None, "past": NOW - timedelta(days=1), "now": NOW, "ahead": NOW + timedelta(days=1)}
ANSWERED = {"never": None, "before": NOW - timedelta(days=2), "after": NOW + timedelta(days=2)}
CAUSE = "policy-changed:r1:abc"


@pytest.mark.parametrize(("when", "answered", "is_open"), list(itertools.product(DUE, ANSWERED, [False, True])))
def test_an_incident_is_open_after_a_look_exactly_when_it_is_due_and_not_answered_since(when: str, answered: str, is_open: bool) -> None:
    one = Obligation(kind=Kind.POLICY, cause=CAUSE, due_at=DUE[when], summary="a sentence")
    past = [Known(id="INC-1", cause=CAUSE, is_open=False, answered_at=ANSWERED[answered])] if answered != "never" else []
    known = [*past, Known(id="INC-2", cause=CAUSE, is_open=True)] if is_open else past
    decided = incident_plan.plan([one], known, live="r1", now=NOW)
    is_answered = {"never": False, "before": when == "at once", "after": True}[answered]
    should_be_open = when != "ahead" and not is_answered
    assert [made.cause for made in decided.open] == [CAUSE] * (should_be_open and not is_open)
    assert [number for number, _ in decided.resolve] == ["INC-2"] * (is_open and not should_be_open)


@pytest.mark.parametrize(
    ("cause", "found", "resolved"),
    [
        ("policy-changed:r1:abc", (), "its cause is gone"),
        ("policy-changed:r0:abc", (), "release r1 is live now"),
        ("policy-changed:r0:abc", (reassessment.unreadable("r1", "no such file"),), None),
        ("break-glass:r1", (), None),
        ("drift", (), None),
        ("cannot-be-judged:r1", (), "its cause is gone"),
        ("no-sign-off:111", (), "release r1 is live now"),
    ],
    ids=["gone", "superseded", "blind", "not ours", "not ours either", "readable again", "signed now"],
)
def test_what_has_no_cause_any_more_is_resolved_where_it_is_ours_and_can_be_seen(
    cause: str, found: tuple[Obligation, ...], resolved: str | None
) -> None:
    decided = incident_plan.plan(found, [Known(id="INC-1", cause=cause, is_open=True)], live="r1", now=NOW)
    assert [number for number, _ in decided.resolve] == ([] if resolved is None else ["INC-1"])
    assert all(resolved in why for _, why in decided.resolve if resolved)


@pytest.mark.parametrize("kind", sorted(set(Kind) - reassessment.ANSWERABLE))
def test_what_only_ends_with_its_cause_is_not_answered_by_one_person(kind: Kind) -> None:
    one = Obligation(kind=kind, cause=f"{kind}:r1", due_at=None, summary="a sentence")
    known = Known(id="INC-1", cause=one.cause, is_open=True, answered_at=NOW)
    assert incident_plan.plan([one], [known], live="r1", now=NOW) == incident_plan.Plan(open=(), resolve=())


def test_whatever_clocks_looked_before_a_look_by_the_right_one_leaves_exactly_what_is_due_open(signed: SignedOff, present: Present) -> None:
    found = reassessment.obligations(signed, replace(present, policy_digest="f" * 64), RULES)
    clocks = [SIGNED - timedelta(days=900), SIGNED, SOON, LATER + timedelta(days=10), SIGNED + timedelta(days=5000)]
    for looks in itertools.product(clocks, repeat=3):
        incidents: dict[str, bool] = {}
        for now in looks:
            known = [Known(id=cause, cause=cause, is_open=is_open) for cause, is_open in incidents.items()]
            decided = incident_plan.plan(found, known, live=signed.release, now=now)
            incidents |= dict.fromkeys((number for number, _ in decided.resolve), False) | {one.cause: True for one in decided.open}
        assert {cause for cause, is_open in incidents.items() if is_open} == {one.cause for one in found if one.is_due(looks[-1])}
