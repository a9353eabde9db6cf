"""Tokens of an issuer: real keys, a real server for them, and the classic ways of cheating."""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from serving import jwks
from serving.access import Access, Action, Peer, Refused
from serving.grants import Role
from serving.jwks import Jwks
from tests.serving.keeping import NOW, House

ISSUER, AUDIENCE = "https://keycloak.lab.example/realms/lab", "firstlight"
HERE = Peer(address="10.25.20.7")
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
MAKERS = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm, "EdDSA": jwt.algorithms.OKPAlgorithm}


def public(key, kid, algorithm, **more):
    return {**json.loads(MAKERS[algorithm].to_jwk(key.public_key())), "kid": kid, "use": "sig", **more}


SET = [public(RSA, "rsa", "RS256"), public(EC, "ec", "ES256"), public(ED, "ed", "EdDSA")]
PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
GROUPS = [
    {"group": "/astronomy", "roles": ["reader"], "models": ["desi-*"]},
    {"group": "/platform", "roles": ["operator"], "models": ["sdss-*"]},
]


def issuer(where, **more):
    return {
        "name": "lab",
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "jwks": str(where),
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "groups": GROUPS,
        **more,
    }


def claims(**more):
    made = {"iss": ISSUER, "sub": "f3a1", "aud": ["account", AUDIENCE], "iat": NOW - 10, "exp": NOW + 300, "groups": ["/astronomy"], **more}
    return {name: value for name, value in made.items() if value is not None}


def token(key=RSA, kid="rsa", algorithm="RS256", headers=None, **more):
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers={"kid": kid, "typ": "at+jwt", **(headers or {})})


def by_hand(header, payload, sign=lambda signed: b""):
    """Return a token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    return b".".join([*parts, base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")]).decode()


@pytest.fixture
def house(tmp_path):
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": SET}))
    made = House(tmp_path)
    made.document["issuers"] = [issuer("jwks.json")]
    return made


@pytest.fixture
def access(house):
    return opened(house)


def opened(house):
    made = Access(house.write())
    for source in made._issuers.values():
        source.look()
    return made


def admit(access, text, *, action=Action.INFER, model="desi-vae", now=NOW):
    return access.admit({"authorization": f"Bearer {text}"}, action=action, model=model, now=now, peer=HERE)


def refusal(access, text, **more):
    with pytest.raises(Refused) as refused:
        admit(access, text, **more)
    return refused.value


@pytest.mark.parametrize(("key", "kid", "algorithm"), [(RSA, "rsa", "RS256"), (EC, "ec", "ES256"), (ED, "ed", "EdDSA")])
def test_a_token_of_the_issuer_names_its_holder_and_gives_what_its_groups_give(access, key, kid, algorithm):
    caller = admit(access, token(key, kid, algorithm, groups=["/astronomy", "/unknown", 7, None]))
    assert (caller.name, caller.roles, caller.proof) == ("lab:f3a1", {Role.READER}, "token of lab")
    assert refusal(access, token(key, kid, algorithm), model="sdss-vae").status == 404
    assert refusal(access, token(key, kid, algorithm), action=Action.ROUTES_READ).status == 403


def test_two_groups_give_each_its_own_models(access):
    both = token(groups=["/astronomy", "/platform"])
    assert admit(access, both, action=Action.ROUTES_READ, model="sdss-vae").name == "lab:f3a1"
    assert refusal(access, both, action=Action.ROUTES_READ, model="desi-vae").status == 403


def test_no_group_of_ours_is_403_and_a_group_star_is_everybody(house):
    access = opened(house)
    assert [refusal(access, token(groups=groups)).status for groups in ([], None, ["/other"], {"a": 1}, 5)] == [403] * 5
    house.document["issuers"][0]["groups"] = [{"group": "*", "roles": ["reader"], "models": ["desi-vae"]}]
    assert admit(opened(house), token(groups=None)).roles == {Role.READER}


def test_groups_may_lie_deeper_and_a_scope_is_split_at_spaces(house):
    house.document["issuers"][0].update(groups_claim=["realm_access", "roles"])
    assert admit(opened(house), token(realm_access={"roles": ["/astronomy"]}, groups=None)).roles == {Role.READER}
    house.document["issuers"][0].update(groups_claim=["scope"])
    assert admit(opened(house), token(scope="openid /astronomy email")).roles == {Role.READER}


def _confused(signed):
    return hmac.new(PEM, signed, hashlib.sha256).digest()


AT = {"typ": "at+jwt", "kid": "rsa"}
ATTACKS = {
    "alg none": by_hand({**AT, "alg": "none"}, claims()),
    "alg NONE": by_hand({**AT, "alg": "NonE"}, claims()),
    "no alg": by_hand(AT, claims()),
    "alg is a list": by_hand({**AT, "alg": ["RS256"]}, claims()),
    "HS256 with the public key": by_hand({**AT, "alg": "HS256"}, claims(), _confused),
    "RS256 said, HMAC made": by_hand({**AT, "alg": "RS256"}, claims(), _confused),
    "an algorithm of another key": token(EC, "rsa", "ES256"),
    "RSA by an EC key's id": token(RSA, "ec", "RS256"),
    "an algorithm that is not allowed": token(RSA, "rsa", "RS512"),
    "a key nobody publishes": token(STRANGER),
    "its own key in jwk": token(STRANGER, headers={"jwk": public(STRANGER, "rsa", "RS256")}),
    "its own key behind jku": token(STRANGER, headers={"jku": "https://attacker.example/jwks"}),
    "its own chain in x5c": token(STRANGER, headers={"x5c": ["MIIB"], "x5u": "https://attacker.example"}),
    "kid is a path": token(STRANGER, "../../../../dev/null"),
    "kid is SQL": token(STRANGER, "x' UNION SELECT 'key"),
    "kid is a list": by_hand({**AT, "kid": ["rsa"], "alg": "RS256"}, claims()),
    "no kid": by_hand({"typ": "at+jwt", "alg": "RS256"}, claims()),
    "crit": token(headers={"crit": ["exp"], "exp": 1}),
    "b64 false": by_hand({**AT, "alg": "RS256", "b64": False, "crit": ["b64"]}, claims()),
    "an ID token": token(headers={"typ": "JWT"}),
    "no type": token(headers={"typ": None}),
    "another issuer": token(iss="https://evil.example"),
    "no issuer": token(iss=None),
    "issuer is a list": by_hand({**AT, "alg": "RS256"}, claims(iss=[ISSUER])),
    "issuer with a slash more": token(iss=ISSUER + "/"),
    "another audience": token(aud="portal"),
    "no audience": token(aud=None),
    "audience that begins like ours": token(aud="firstlight-dev"),
    "expired": token(exp=NOW - 31),
    "no expiry": token(exp=None),
    "expires never": by_hand({**AT, "alg": "RS256"}, claims(exp="never")),
    "counts later": token(nbf=NOW + 31),
    "issued in the future": token(iat=NOW + 31),
    "no moment of issue": token(iat=None),
    "no subject": token(sub=None),
    "subject with a line break": token(sub="vera\nx-admin: 1"),
    "subject too long": token(sub="v" * 97),
    "empty subject": token(sub=""),
    "signature cut": token()[:-6],
    "payload changed": ".".join([*token().split(".")[:1], by_hand({}, claims(groups=["/platform"])).split(".")[1], token().split(".")[2]]),
    "two parts": ".".join(token().split(".")[:2]),
    "an encrypted one": ".".join([*token().split("."), "", ""]),
    "no JSON": "eyJhbGciOiJSUzI1NiJ9.bm8gSlNPTg.c2ln",
    "deeply nested": "eyJhbGciOiJSUzI1NiJ9." + base64.urlsafe_b64encode(b"[" * 9000).decode() + ".c2ln",
    "very long": token(padding="x" * 20_000),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_401_and_the_answer_repeats_nothing_of_it(access, attack):
    refused = refusal(access, ATTACKS[attack])
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Bearer realm="firstlight", error="invalid_token"')
    assert ATTACKS[attack].split(".")[1][:20] not in str(refused)
    assert "evil" not in str(refused)


def test_times_have_the_leeway_that_the_file_gives_and_no_more(access):
    for name, moment in (("exp", NOW - 29), ("nbf", NOW + 29), ("iat", NOW + 29)):
        assert admit(access, token(**{name: moment})).name == "lab:f3a1"


def test_a_token_that_was_checked_once_is_remembered_but_not_beyond_its_time(access, monkeypatch):
    text = token()
    admit(access, text)
    # Given that checking again is impossible
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("a signature was checked twice"))
    assert admit(access, text, now=NOW + 329).name == "lab:f3a1"
    refused = refusal(access, text, now=NOW + 331)
    assert (refused.status, "expired" in str(refused)) == (401, True)


def test_memory_of_tokens_is_bounded_and_holds_no_token(access, monkeypatch):
    monkeypatch.setattr("serving.oidc._MOST_REMEMBERED", 3)
    texts = [token(EC, "ec", "ES256", jti=str(number)) for number in range(6)]
    for text in texts:
        admit(access, text)
    assert len(access._tokens) == 3
    assert not any(text in repr(access._tokens._remembered) for text in texts)


def test_required_claims_must_have_their_value(house):
    house.document["issuers"][0]["required"] = {"azp": "portal"}
    access = opened(house)
    assert admit(access, token(azp="portal")).name == "lab:f3a1"
    assert [refusal(access, token(azp=azp)).status for azp in ("other", None, ["portal"])] == [401] * 3


def test_keycloaks_plain_type_counts_when_the_file_says_so(house):
    house.document["issuers"][0]["token_types"] = ["JWT", "at+jwt"]
    access = opened(house)
    assert [admit(access, token(headers={"typ": kind})).name for kind in ("JWT", "jwt", "application/at+jwt")] == ["lab:f3a1"] * 3


def test_two_issuers_are_told_apart_by_name_and_neither_speaks_for_the_other(house, tmp_path):
    (tmp_path / "theirs.json").write_text(json.dumps({"keys": [public(STRANGER, "rsa", "RS256")]}))
    other = issuer("theirs.json", name="guests", issuer="https://guests.example")
    house.document["issuers"].append(other)
    access = opened(house)
    assert admit(access, token(STRANGER, iss="https://guests.example")).name == "guests:f3a1"
    assert refusal(access, token(STRANGER)).status == 401
    assert refusal(access, token(iss="https://guests.example")).status == 401


def test_many_wrong_tokens_are_not_even_looked_at(access, monkeypatch):
    good, bad = token(), token(STRANGER)
    admit(access, good)
    assert [refusal(access, bad).status for _ in range(30)] == [401] * 30
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("the token was looked at"))
    refused = refusal(access, bad)
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    assert admit(access, good).name == "lab:f3a1"


def test_a_changed_file_forgets_what_was_checked_under_the_old_one(house):
    access, text = opened(house), token()
    admit(access, text)
    house.document["issuers"][0]["groups"] = [{"group": "/astronomy", "roles": ["approver"], "models": ["desi-*"]}]
    house.write()
    assert access.refresh()
    assert refusal(access, text).status == 403


# Keys


class Server:
    """An issuer's address for its keys."""

    def __init__(self):
        self.body, self.status, self.asked = json.dumps({"keys": SET}).encode(), 200, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                self.send_response(outer.status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(outer.body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def test_keys_are_fetched_beside_the_requests_and_kept_when_the_issuer_is_away(house, server, until, caplog):
    house.document["issuers"] = [issuer(server.url)]
    access = Access(house.write())
    # Given that the keys were never fetched, then the answer is "later", not "wrong"
    refused = refusal(access, token())
    assert (refused.status, refused.headers) == (503, {"retry-after": "5"})
    with access:
        until(lambda: _is_in(access, token()), 10, 0.05)
        # When the issuer goes away, answers nonsense or too much, then its keys stay and the log says why
        for status, body in ((500, b""), (302, b""), (200, b"<html>"), (200, b'{"keys": 5}'), (200, b" " * 400_000)):
            server.status, server.body = status, body
            assert not access._issuers[server.url, None].look()
            assert admit(access, token(jti=str(status))).name == "lab:f3a1"
    server.close()
    assert not access._issuers[server.url, None].look()
    assert admit(access, token(jti="away")).name == "lab:f3a1"
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 6


def _is_in(access, text):
    with contextlib.suppress(Refused):
        return bool(admit(access, text))
    return False


def test_a_new_key_is_fetched_early_and_a_removed_one_counts_no_more(server, house, until):
    fresh = ec.generate_private_key(ec.SECP256R1())
    house.document["issuers"] = [issuer(server.url)]
    with Access(house.write()) as access:
        source = access._issuers[server.url, None]
        source._least_seconds = 0.1
        until(lambda: source.keys, 10)
        old, new = token(), token(fresh, "fresh", "ES256")
        admit(access, old)
        # When the issuer changes its keys, then the first token with the new one makes us look
        server.body = json.dumps({"keys": [public(fresh, "fresh", "ES256")]}).encode()
        until(lambda: _is_in(access, new), 10, 0.1)
        # And the token that was remembered is not taken any more
        assert refusal(access, old).status == 401


def test_invented_key_ids_do_not_storm_the_issuer(server, house, until):
    house.document["issuers"] = [issuer(server.url)]
    with Access(house.write()) as access:
        source = access._issuers[server.url, None]
        until(lambda: source.keys, 10)
        for number in range(50):
            _is_in(access, token(STRANGER, f"invented-{number}"))
        assert server.asked == 1


def test_keys_of_an_issuer_that_stays_survive_a_change_of_the_file(server, house, until):
    house.document["issuers"] = [issuer(server.url)]
    with Access(house.write()) as access:
        until(lambda: access._issuers[server.url, None].keys, 10)
        server.status = 500
        house.client("new").write()
        until(lambda: _is_in(access, token()) and access._rules.keys, 10)
        assert admit(access, token()).name == "lab:f3a1"


SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
PRIVATE = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC)), "kid": "private"}


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "kid": "shared", "k": "AAAA", "alg": "HS256"},
        public(SMALL, "small", "RS256"),
        public(RSA, "encryption", "RS256", use="enc"),
        public(RSA, "wraps", "RS256", key_ops=["wrapKey"]),
        public(RSA, "other", "RS256", alg="ES256"),
        public(RSA, "hmac", "RS256", alg="HS256"),
        PRIVATE,
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off the curve"},
        {"kty": "EC", "crv": "secp256k1", "kid": "coin"},
        {"kid": "nothing"},
        {**SET[0], "kid": 5},
        "no object",
    ],
)
def test_keys_that_must_not_check_signatures_are_left_out(entry):
    assert set(jwks.parse(json.dumps({"keys": [entry, SET[1]]}).encode())) == {"ec"}


def test_a_key_that_names_its_algorithm_is_for_no_other():
    (key,) = jwks.parse(json.dumps({"keys": [public(RSA, "rsa", "RS256", alg="PS256")]}).encode()).values()
    assert key.algorithms == {"PS256"}


def test_a_file_of_keys_is_followed(tmp_path, until):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [SET[0]]}))
    source = Jwks(str(path))
    assert source.look()
    assert (set(source.keys), source.generation) == ({"rsa"}, 1)
    assert source.look()
    assert source.generation == 1
    path.write_text(json.dumps({"keys": SET}))
    assert source.look()
    assert (set(source.keys), source.generation) == ({"rsa", "ec", "ed"}, 2)
