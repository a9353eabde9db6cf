"""The door of the gateway: who comes in, who does not, with which words, and what a change of the access file does."""

import hashlib
import json
import logging
import os
from itertools import product

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving import access_document, access_keys
from serving.access import Access, Action, Peer, Refused, own_reader, unknown_model
from serving.errors import AccessFileError
from serving.gateway import Gateway
from serving.grants import ALLOWED, Role
from tests.serving.keeping import NOW, House

HERE = Peer(address="10.25.20.7")


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def ask(access, headers, *, action=Action.INFER, model="desi-vae", now=NOW, peer=HERE):
    """Return 200 or the status of the refusal."""
    try:
        access.admit(headers, action=action, model=model, now=now, peer=peer)
    except Refused as refused:
        return refused.status
    return 200


STATES = {
    "in force": ({}, True),
    "expires later": ({"expires": "2027-01-16"}, True),
    "expired a second ago": ({"expires": "2027-01-15T07:59:59Z"}, False),
    "expires this second": ({"expires": "2027-01-15T08:00:00Z"}, False),
    "revoked": ({"revoked": "2027-01-01"}, False),
    "to be revoked": ({"revoked": "2027-02-01"}, True),
    "revoked and not expired": ({"revoked": "2027-01-01", "expires": "2028-01-01"}, False),
}
SCOPES = {("desi-vae",): True, ("desi-*",): True, ("*",): True, ("sdss-vae",): False}


@pytest.mark.parametrize(("state", "models"), list(product(STATES, SCOPES)))
def test_every_role_and_action_in_every_state_and_scope(house, state, models):
    (key, counts), covered = STATES[state], SCOPES[models]
    for role in Role:
        house.client(role.value, roles=[role.value], models=models, key=key)
    access = Access(house.write())
    for role, action in product(Role, Action):
        expected = 401 if not counts else 403 if action not in ALLOWED[role] else 200 if covered else 404
        access._failures = type(access._failures)()
        assert ask(access, house.headers(role.value), action=action) == expected, (role, action)


def test_a_caller_is_known_by_name_roles_and_key_id_and_never_by_the_key(house):
    access = Access(house.client("portal", models=["desi-*"]).write())
    caller = access.admit(house.headers("portal"), action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)
    assert (caller.name, caller.roles, caller.may_see("desi-x"), caller.may_see("sdss")) == ("portal", {Role.READER}, True, False)
    assert caller.proof == f"key {access_keys.id_of(house.keys['portal'])}"
    assert house.keys["portal"][-43:] not in repr(caller) + repr(access._rules)


def wrong(key):
    other = access_keys.make()
    return {
        "nothing": {},
        "an empty one": {"authorization": ""},
        "only the scheme": {"authorization": "Bearer "},
        "another scheme": {"authorization": f"Basic {key}"},
        "no scheme": {"authorization": key},
        "a key nobody made": {"authorization": f"Bearer {other.text}"},
        "the id with another secret": {"authorization": f"Bearer fl_{access_keys.id_of(key)}_{other.text[-43:]}"},
        "one character less": {"authorization": f"Bearer {key[:-1]}"},
        "one character more": {"authorization": f"Bearer {key}x"},
        "the stored hash": {"authorization": f"Bearer fl_{access_keys.id_of(key)}_{hashlib.sha256(key.encode()).hexdigest()}"},
        "capitals": {"authorization": f"Bearer {key.upper()}"},
        "two at once": {"authorization": f"Bearer {other.text}, Bearer {key}"},
        "a header of their own": {"x-firstlight-client": "portal", "x-api-key": key},
        "not ascii": {"authorization": "Bearer fl_ü\udcff"},
        "a token where none is taken": {"authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
        "a very long one": {"authorization": "Bearer " + "a" * 100_000},
    }


@pytest.mark.parametrize("which", wrong("fl_aaaaaaaaaa_" + "x" * 43))
def test_a_wrong_credential_is_401_with_a_challenge_and_without_an_echo(house, which):
    access = Access(house.client("portal").write())
    headers = wrong(house.keys["portal"])[which]
    with pytest.raises(Refused) as refused:
        access.admit(headers, action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)
    assert refused.value.status == 401
    assert refused.value.headers["www-authenticate"].startswith('Bearer realm="firstlight"')
    given = headers.get("authorization", "").removeprefix("Bearer ")
    assert not given.strip() or given not in str(refused.value)


def test_only_the_holder_of_a_key_is_told_that_it_has_expired(house):
    access = Access(house.client("old", key={"expires": "2027-01-01"}).write())
    with pytest.raises(Refused, match=r"expired on 2027-01-01T00:00Z: ask for a new one"):
        access.admit(house.headers("old"), action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)
    guessed = {"authorization": house.headers("old")["authorization"][:-4] + "AAAA"}
    with pytest.raises(Refused, match="not known here"):
        access.admit(guessed, action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)


def test_a_model_of_somebody_else_and_a_model_that_is_nowhere_read_the_same(house):
    access = Access(house.client("a", models=["a-model"]).client("b", models=["b-model"]).write())
    answers = []
    for model in ("b-model", "c-model"):
        with pytest.raises(Refused) as refused:
            access.admit(house.headers("a"), action=Action.INFER, model=model, now=NOW, peer=HERE)
        answers.append((refused.value.status, str(refused.value).replace(model, "?"), refused.value.headers))
    gateways = unknown_model("c-model")
    assert answers[0] == answers[1] == (gateways.status, str(gateways).replace("c-model", "?"), gateways.headers)


def test_rates_of_one_client_are_429_with_the_seconds_to_wait_and_leave_others_alone(house):
    house.client("loud", limits={"requests_per_second": 5}).client("quiet")
    access = Access(house.write())
    statuses = [ask(access, house.headers("loud")) for _ in range(15)]
    assert statuses == [200] * 10 + [429] * 5
    with pytest.raises(Refused) as refused:
        access.admit(house.headers("loud"), action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)
    assert refused.value.headers == {"retry-after": "1"}
    assert ask(access, house.headers("quiet")) == 200
    assert ask(access, house.headers("loud"), now=NOW + 1) == 200


def test_a_client_cannot_tell_hidden_models_by_not_being_slowed_there(house):
    access = Access(house.client("nosy", limits={"requests_per_second": 5}).write())
    statuses = [ask(access, house.headers("nosy"), model=f"guess-{number}") for number in range(15)]
    assert statuses == [404] * 10 + [429] * 5


def test_rows_and_bytes_are_paid_for_afterwards(house):
    house.client("survey", limits={"rows_per_second": 100}).client("bulk", limits={"megabytes_per_second": 1})
    access = Access(house.write())
    caller = access.admit(house.headers("survey"), action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)
    access.charge(caller, now=NOW, rows=1000)
    assert [ask(access, house.headers("survey"), now=NOW + later) for later in (0, 7.9, 8.1)] == [429, 429, 200]
    # Announced bytes are charged on admission, so that many at once are no way around
    sizes = {"content-length": str(4 << 20)}
    assert [ask(access, house.headers("bulk", **sizes), now=NOW + later) for later in (0, 0, 1.9, 2.1)] == [200, 429, 429, 200]


def test_everybody_together_may_ask_a_model_only_so_often(house):
    house.document["models"] = [{"model": "desi-*", "requests_per_second": 5}, {"model": "*", "requests_per_second": 500}]
    house.client("a", models=["*"]).client("b", models=["*"])
    access = Access(house.write())
    both = [ask(access, house.headers(name)) for _ in range(8) for name in ("a", "b")]
    assert both.count(200) == 10
    assert ask(access, house.headers("a"), model="sdss-vae") == 200
    assert ask(access, house.headers("a"), action=Action.METADATA) == 200


def test_a_body_above_the_clients_limit_is_413(house):
    house.document["limits"] = {"body_mb": 1, "rows": 256}
    access = Access(house.client("small").client("large", limits={"body_mb": 2}).write())
    length = {"content-length": str(3 << 19)}
    assert [ask(access, house.headers(name, **length)) for name in ("small", "large")] == [413, 200]
    caller = access.admit(house.headers("large"), action=Action.INFER, model="desi-vae", now=NOW, peer=HERE)
    assert (caller.limits.body_bytes, caller.limits.rows) == (2 << 20, 256)


def test_failures_are_slowed_by_address_and_never_lock_out_whoever_has_a_key(house):
    house.document["failures_per_minute"] = 30
    access = Access(house.client("portal").write())
    guesses = [ask(access, {"authorization": f"Bearer {access_keys.make().text}"}) for _ in range(100)]
    assert guesses == [401] * 30 + [429] * 70
    assert ask(access, house.headers("portal")) == 200
    assert ask(access, {"authorization": f"Bearer {access_keys.make().text}"}, peer=Peer(address="10.25.20.8")) == 401
    assert ask(access, {"authorization": f"Bearer {access_keys.make().text}"}, now=NOW + 3) == 401


def test_a_household_with_many_ipv6_addresses_is_one_address(house):
    house.document["failures_per_minute"] = 10
    access = Access(house.write())
    statuses = [ask(access, {}, peer=Peer(address=f"2001:db8:1:2::{number:x}")) for number in range(20)]
    assert statuses == [401] * 10 + [429] * 10


def test_memory_is_bounded_whatever_callers_invent(house):
    access = Access(house.client("all", models=["*"]).write())
    access._failures = type(access._failures)(most=50)
    for number in range(500):
        ask(access, {"authorization": f"Bearer fl_{number}"}, peer=Peer(address=f"10.0.{number // 250}.{number % 250}"))
        ask(access, house.headers("all"), model=f"invented-{number}")
    assert len(access._failures) == 50
    assert len(access._paces) == 0


def test_the_address_behind_a_proxy_is_believed_only_from_a_proxy(house):
    house.document.update(proxies=["10.25.20.0/24"], failures_per_minute=1)
    access = Access(house.write())
    proxy, stranger = Peer(address="10.25.20.7"), Peer(address="192.0.2.9")
    assert [ask(access, {"x-forwarded-for": "198.51.100.1"}, peer=proxy) for _ in range(2)] == [401, 429]
    assert ask(access, {"x-forwarded-for": "198.51.100.2"}, peer=proxy) == 401
    # What the caller itself wrote before the proxy's own entry is not believed
    assert ask(access, {"x-forwarded-for": "203.0.113.5, 198.51.100.1"}, peer=proxy) == 429
    assert [ask(access, {"x-forwarded-for": f"198.51.100.{number}"}, peer=stranger) for number in (50, 51)] == [401, 429]


def test_a_certificate_is_a_client_and_a_wrong_key_beside_it_is_not_forgiven(house):
    house.client("portal", certificates=[{"dns": "portal.lab.example"}]).client("other", certificates=[{"uri": "spiffe://lab/other"}])
    access = Access(house.write())
    portal = Peer(address="10.0.0.1", certificate=frozenset({"dns:portal.lab.example", "subject:CN=portal"}))
    assert access.admit({}, action=Action.INFER, model="desi-vae", now=NOW, peer=portal).name == "portal"
    assert access.admit(house.headers("other"), action=Action.INFER, model="desi-vae", now=NOW, peer=portal).name == "other"
    assert ask(access, {"authorization": "Bearer fl_wrong"}, peer=portal) == 401
    assert ask(access, {}, peer=Peer(certificate=frozenset({"dns:stranger.lab.example"}))) == 401
    assert ask(access, {}, peer=Peer(certificate=frozenset({"dns:portal.lab.example", "uri:spiffe://lab/other"}))) == 401


def test_our_own_reader_may_use_its_model_and_nothing_else(house):
    made = access_keys.make()
    access = Access(house.write(), own=own_reader(["desi-vae"], made.text))
    headers = {"authorization": f"Bearer {made.text}"}
    assert access.admit(headers, action=Action.INFER, model="desi-vae", now=NOW, peer=HERE).name == "canary-replay"
    assert ask(access, headers, model="sdss-vae") == 404
    assert [ask(access, headers, action=action) for action in (Action.METRICS, Action.ROUTES_READ, Action.ROUTES_WRITE)] == [403] * 3
    with pytest.raises(ValueError, match="fl_<id>_<secret>"):
        own_reader(["desi-vae"], "not a key")


ODD = st.one_of(
    st.text(max_size=60), st.from_regex(r"(Bearer|bearer) (fl_[a-z2-7]{10}_[A-Za-z0-9_-]{40,46}|[A-Za-z0-9_.=-]{0,60})", fullmatch=True)
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("authorization", "content-length", "x-forwarded-for"), ODD)),
    st.text(max_size=20),
    ODD,
)
def test_whatever_strangers_send_they_are_refused_and_nothing_breaks(strangers_door, headers, model, address):
    for action in Action:
        assert ask(strangers_door, headers, action=action, model=model, peer=Peer(address=address)) in (401, 429)


@pytest.fixture(scope="module")
def strangers_door(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("door")).client("portal", models=["*"])
    house.document["proxies"] = ["0.0.0.0/0", "::/0"]
    return Access(house.write())


# The file


def test_a_changed_file_is_in_force_without_a_restart_and_a_broken_one_is_not(house, caplog):
    access = Access(house.client("first").write())
    metrics = Gateway(["desi-vae"], token="t", access=access).metrics
    first, before = house.headers("first"), ask(access, house.headers("first"))
    assert (before, access.refresh()) == (200, False)
    assert b"\nfirstlight_gateway_access_file_problem 0.0" in metrics.page()
    # When somebody breaks it, then the last good one stays in force and the log says so loudly
    house.path.write_text("format: firstlight/access/v1\nclients: [{name: first}]\n")
    assert not access.refresh()
    assert ask(access, first) == 200
    assert "clients.0.roles" in access.problem
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert b"\nfirstlight_gateway_access_file_problem 1.0" in metrics.page()
    # And when it disappears
    house.path.unlink()
    assert (access.refresh(), ask(access, first), "readable" in access.problem) == (False, 200, True)
    # When it is mended, then the revoked key counts no more and the new one does
    house.document["clients"][0]["keys"][0]["revoked"] = "2027-01-01"
    house.client("second").write()
    assert access.refresh()
    assert (access.problem, ask(access, first), ask(access, house.headers("second"))) == ("", 401, 200)
    assert b"\nfirstlight_gateway_access_file_problem 0.0" in metrics.page()


def test_the_thread_follows_the_file_and_swapped_links(house, tmp_path, until):
    house.client("first").write()
    link = tmp_path / "mounted.yaml"
    link.symlink_to(house.path)
    with Access(link) as access:
        house.document["clients"].clear()
        (tmp_path / "next").mkdir()
        successor = House(tmp_path / "next").client("second")
        successor.write()
        (tmp_path / "swap").symlink_to(successor.path)
        os.replace(tmp_path / "swap", link)
        until(lambda: ask(access, successor.headers("second")) == 200, 10, 0.3)
        assert ask(access, house.headers("first")) == 401


def test_a_gateway_never_starts_with_a_file_it_cannot_use(tmp_path):
    with pytest.raises(AccessFileError, match="readable"):
        Access(tmp_path / "none.yaml")


KEY = {"id": "aaaaaaaaaa", "sha256": "0" * 64}
CLIENT = {"name": "a", "roles": ["reader"], "models": ["m"]}
ISSUER = {
    "name": "lab",
    "issuer": "https://i",
    "audience": "us",
    "jwks": "https://i/jwks",
    "groups": [{"group": "g", "roles": ["reader"], "models": ["m"]}],
}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"extra": 1}, "extra"),
        ({"format": "firstlight/access/v2"}, "firstlight/access/v1"),
        ({"clients": [{**CLIENT, "roles": ["root"]}]}, "'reader', 'operator', 'approver' or 'admin'"),
        ({"clients": [{**CLIENT, "roles": []}]}, "clients.0.roles"),
        ({"clients": [{**CLIENT, "models": ["UPPER"]}]}, "clients.0.models.0"),
        ({"clients": [{**CLIENT, "name": "canary-replay"}]}, "our own processes"),
        ({"clients": [{**CLIENT, "name": "lab:vera"}]}, "clients.0.name"),
        ({"clients": [CLIENT, CLIENT]}, "each client must stand in the file once"),
        ({"clients": [{**CLIENT, "keys": [KEY, {**KEY, "id": "bbbbbbbbbb"}]}]}, "each key must stand in the file once"),
        ({"clients": [{**CLIENT, "keys": [KEY]}, {**CLIENT, "name": "b", "keys": [{**KEY, "sha256": "1" * 64}]}]}, "each key id"),
        ({"clients": [{**CLIENT, "certificates": [{"dns": "x", "uri": "y"}]}]}, "exactly one"),
        (
            {"clients": [{**CLIENT, "certificates": [{"dns": "X.lab"}]}, {**CLIENT, "name": "b", "certificates": [{"dns": "x.lab"}]}]},
            "each certificate",
        ),
        ({"clients": [{**CLIENT, "limits": {"rows": 0}}]}, "clients.0.limits.rows"),
        ({"limits": {"requests_per_second": float("inf")}}, "limits.requests_per_second"),
        ({"issuers": [{**ISSUER, "algorithms": ["HS256"]}]}, "issuers.0.algorithms.0"),
        ({"issuers": [{**ISSUER, "algorithms": ["none"]}]}, "issuers.0.algorithms.0"),
        ({"issuers": [{**ISSUER, "jwks": "http://i.example/jwks"}]}, "https address or a file"),
        ({"issuers": [{**ISSUER, "groups": []}]}, "issuers.0.groups"),
        ({"issuers": [ISSUER, {**ISSUER, "name": "other"}]}, "each issuer must"),
        ({"proxies": ["10.25.20.1/24"]}, "host bits"),
    ],
)
def test_what_is_wrong_in_the_file_is_a_sentence_that_names_the_place(more, said):
    with pytest.raises(AccessFileError) as error:
        access_document.parse(json.dumps({"format": "firstlight/access/v1", **more}).encode())
    assert said in str(error.value)
    assert "docs/access.md" in str(error.value)


def test_a_key_that_somebody_put_into_the_file_in_the_clear_is_not_repeated(tmp_path):
    made = access_keys.make()
    document = {"format": "firstlight/access/v1", "clients": [{**CLIENT, "keys": [{"id": made.id, "sha256": made.text}]}]}
    with pytest.raises(AccessFileError) as error:
        access_document.parse(json.dumps(document).encode())
    assert made.text not in str(error.value)


@pytest.mark.parametrize(
    "text", ["a: &x 1\nb: *x", "format: 1\nformat: 2", "[" * 500, "!!python/object:os.system {}", "\xff", "- just\n- a list"]
)
def test_tricks_are_refused(tmp_path, text):
    with pytest.raises(AccessFileError):
        access_document.parse(text.encode("latin-1"))


def test_a_file_that_everybody_may_write_is_not_trusted(house):
    house.client("a").write().chmod(0o666)
    with pytest.raises(AccessFileError, match="chmod o-w"):
        Access(house.path)


def test_dates_are_their_first_moment_in_utc():
    document = {"format": "firstlight/access/v1", "clients": [{**CLIENT, "keys": [{**KEY, "expires": "2027-01-01"}]}]}
    for text in (yaml.safe_dump(document), yaml.safe_dump(document).replace("'2027-01-01'", "2027-01-01"), json.dumps(document)):
        (key,) = access_document.parse(text.encode()).clients[0].keys
        assert key.expires.timestamp() == 1_798_761_600


def test_keys_are_random_and_stored_as_hash_only():
    made = [access_keys.make() for _ in range(200)]
    assert len({key.text for key in made}) == len({key.id for key in made}) == 200
    assert all(access_keys.id_of(key.text) == key.id and hashlib.sha256(key.text.encode()).hexdigest() == key.sha256 for key in made)
    assert all(key.text not in repr(key) for key in made)
