"""Who may do what: every role, every action, every scope, against a table written out by hand."""

from itertools import product

import pytest

from serving.grants import ALLOWED, ANYBODY, Action, Caller, Decision, Grant, Role, decide

ALL = (Action.INFER, Action.METADATA, Action.METRICS, Action.ROUTES_READ, Action.ROUTES_WRITE)
WRITTEN_OUT = {
    # role: infer, metadata, metrics, routes-read, routes-write
    Role.READER: (True, True, False, False, False),
    Role.OPERATOR: (True, True, True, True, False),
    Role.APPROVER: (False, True, True, True, False),
    Role.ADMIN: (True, True, True, True, True),
}
SCOPES = {
    ("desi-vae",): True,
    ("desi-*",): True,
    ("*",): True,
    ("*-vae",): True,
    ("sdss-vae",): False,
    ("desi",): False,
    ("desi-vae-2", "sdss-*"): False,
}


def grant(*roles: Role, models: tuple[str, ...] = ("*",)) -> Grant:
    return Grant(roles=frozenset(roles), models=models)


def test_the_table_is_what_was_decided():
    assert {role: tuple(action in ALLOWED[role] for action in ALL) for role in Role} == WRITTEN_OUT
    assert set(ALL) == set(Action)


@pytest.mark.parametrize(("role", "action", "models"), list(product(Role, Action, SCOPES)))
def test_every_role_every_action_every_scope(role, action, models):
    may, covered = WRITTEN_OUT[role][ALL.index(action)], SCOPES[models]
    expected = Decision.FORBIDDEN if not may else Decision.ALLOWED if covered else Decision.HIDDEN
    assert decide((grant(role, models=models),), action, "desi-vae") is expected


@pytest.mark.parametrize(("role", "action", "models"), list(product(Role, Action, SCOPES)))
def test_the_gateway_as_a_whole_belongs_to_those_who_have_every_model(role, action, models):
    may = WRITTEN_OUT[role][ALL.index(action)] and (models == ("*",) or action in (Action.METADATA, Action.METRICS))
    assert decide((grant(role, models=models),), action, None) is (Decision.ALLOWED if may else Decision.FORBIDDEN)


@pytest.mark.parametrize("pair", list(product(Role, Role)))
def test_a_role_over_one_model_lends_nothing_to_another_model(pair):
    # Given one role over desi-vae and another over sdss-vae
    here, there = pair
    grants = (grant(here, models=("desi-vae",)), grant(there, models=("sdss-vae",)))
    for action in Action:
        # Then what may be done to each model is what its own role says, and neither is hidden from somebody who may do it elsewhere
        for model, role in (("desi-vae", here), ("sdss-vae", there)):
            expected = Decision.ALLOWED if action in ALLOWED[role] else Decision.FORBIDDEN
            assert decide(grants, action, model) is expected


@pytest.mark.parametrize("action", Action)
def test_nobody_may_do_anything_without_a_grant(action):
    assert decide((), action, "desi-vae") is Decision.FORBIDDEN
    assert decide((), action, None) is Decision.FORBIDDEN


@pytest.mark.parametrize("model", ["Desi-Vae", "desi-vae\n", "xdesi-vae", "desi-vae/../sdss", "desi.vae", ""])
def test_a_scope_covers_names_as_they_are_written(model):
    assert not grant(Role.READER, models=("desi-vae", "gaia-*")).covers(model)


def test_a_caller_sees_the_models_of_all_grants_and_anybody_sees_everything():
    caller = Caller(name="c", grants=(grant(Role.READER, models=("desi-*",)), grant(Role.APPROVER, models=("sdss",))))
    assert [caller.may_see(model) for model in ("desi-vae", "sdss", "gaia")] == [True, True, False]
    assert caller.roles == {Role.READER, Role.APPROVER}
    assert all(decide(ANYBODY.grants, action, model) is Decision.ALLOWED for action in Action for model in ("x", None))
