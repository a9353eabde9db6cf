"""Access control on the wire: a gateway with an access file, real sockets, real TLS, and everything a stranger or a neighbour may try."""

import contextlib
import json
import logging
import re
import ssl
import time

import httpx
import pytest

from serving import access_keys
from serving.access import Access, own_reader
from serving.access_log import AccessLog
from serving.tls import ServerTls
from tests.serving.acting import Actor, echo, read_answer, stage, until, whole
from tests.serving.certificates import Authority
from tests.serving.keeping import House

A, B = "/v2/models/alpha/infer", "/v2/models/beta/infer"


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    made.client("alice", models=["alpha"]).client("bob", models=["beta"])
    made.client("watch", roles=["operator"], models=["alpha"]).client("root", roles=["admin"], models=["*"])
    return made


@pytest.fixture
def log(tmp_path):
    with AccessLog(tmp_path / "access.log") as made:
        yield made


@contextlib.contextmanager
def guarded(house, *actors, log=None, own=None, **more):
    """Run a gateway of models alpha and beta with the house's access file; the first actor answers for alpha, the last for beta."""
    with Access(house.write(), own=own) as access, stage(*actors, models=("alpha", "beta"), access=access, access_log=log, **more) as made:
        made.access = access
        for name, actor in (("alpha", actors[0]), ("beta", actors[-1])):
            body = json.dumps({"stable": {"version": f"{name}-7", "url": actor.url}})
            headers = {"authorization": "Bearer token-of-the-test"}
            assert httpx.put(f"{made.control.url}/routes?model={name}", content=body, headers=headers, trust_env=False).status_code == 200
        if "tls" in more:
            yield made
            return
        with httpx.Client(base_url=made.url, trust_env=False, timeout=20) as made.client:
            yield made


def ask(made, method, path, headers=None, **more):
    return made.client.request(method, path, headers=headers, **more)


def written(log):
    """Return the lines of the access log so far."""
    log._flush()
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_a_known_caller_comes_in_under_the_name_of_the_access_file(house, log):
    actor = Actor(lambda ask: whole(ask.body()[::-1], headers="x-firstlight-rows: 3\r\n", version="alpha-7"), version="alpha-7")
    house.document["clients"][0]["limits"] = {"rows": 256, "rows_per_second": 100}
    with guarded(house, actor, log=log) as made:
        sent = house.headers(
            "alice", **{"x-firstlight-client": "bob", "x-firstlight-max-rows": "999999", "cookie": "c=1", "x-api-key": "k"}
        )
        answer = ask(made, "POST", A, sent, content=b"question")
        assert (answer.status_code, answer.content) == (200, b"noitseuq")
        assert "x-firstlight-rows" not in answer.headers
        (got,) = actor.asked
        assert (got.headers["x-firstlight-client"], got.headers["x-firstlight-max-rows"]) == ("alice", "256")
        assert not {"authorization", "cookie", "x-api-key"} & got.headers.keys()
        (line,) = written(log)
        assert (line["client"], line["action"], line["model"], line["version"], line["status"]) == (
            "alice",
            "infer",
            "alpha",
            "alpha-7",
            200,
        )
        assert (line["rows"], line["bytes_in"], line["bytes_out"], line["address"]) == (3, 8, 8, "127.0.0.1")


def test_who_may_not_is_told_so_and_no_version_is_charged_for_it(house):
    actor = echo("alpha-7")
    house.document["clients"][0]["limits"] = {"requests_per_second": 2, "body_mb": 1}
    with guarded(house, actor) as made:
        alice = house.headers("alice")
        refused = {
            401: [
                ask(made, "POST", A),
                ask(made, "POST", A, {"authorization": "Bearer fl_wrong"}),
                ask(made, "GET", "/v2"),
                ask(made, "GET", "/metrics"),
            ],
            403: [ask(made, method, path, house.headers("watch")) for method, path in (("PUT", "/routes?model=alpha"), ("GET", "/routes"))],
            404: [ask(made, "POST", B, house.headers("watch")), ask(made, "GET", "/routes?model=beta", house.headers("watch"))],
            413: [
                ask(made, "POST", A, alice, content=b"x" * (1 << 20) + b"y"),
                ask(made, "POST", A, alice, content=iter([b"x" * (1 << 20), b"y"])),
            ],
        }
        answered = 0
        while (last := ask(made, "POST", A, alice, content=b"q")).status_code == 200:
            answered += 1
        refused[429] = [last]
        for status, answers in refused.items():
            assert [answer.status_code for answer in answers] == [status] * len(answers)
            assert all(answer.json()["error"] for answer in answers)
        assert all(answer.headers["www-authenticate"].startswith("Bearer") for answer in refused[401] + refused[403])
        assert last.headers["retry-after"] == "1"
        counts = measured_of(made, "alpha", "alpha-7")
        assert (counts["errors"], counts["requests"]) == (0, answered)


def measured_of(made, model, version):
    headers = {"authorization": "Bearer token-of-the-test"}
    document = httpx.get(f"{made.control.url}/evidence?model={model}", headers=headers, trust_env=False).json()
    (found,) = [track for track in document["tracks"] if track["version"] == version]
    return found


def test_probes_need_no_credential(house):
    with guarded(house, echo("alpha-7")) as made:
        assert [ask(made, "GET", f"/v2/health/{what}").status_code for what in ("live", "ready")] == [200, 200]


def test_two_credentials_in_one_request_are_refused(house):
    with guarded(house, echo("alpha-7")) as made:
        both = [("authorization", f"Bearer {house.keys['alice']}"), ("authorization", f"Bearer {house.keys['root']}")]
        assert ask(made, "POST", A, both, content=b"q").status_code == 401


def test_a_revoked_key_is_out_on_a_connection_that_stands(house):
    with (
        guarded(house, echo("alpha-7")) as made,
        httpx.Client(base_url=made.url, trust_env=False, headers=house.headers("alice")) as client,
    ):
        assert client.post(A, content=b"q").status_code == 200
        house.document["clients"][0]["keys"][0]["revoked"] = "2026-01-01"
        house.write()
        until(lambda: client.post(A, content=b"q").status_code == 401)


# Two tenants


def everything_that_can_be_asked(made, headers, *, mine, others):
    """Return every answer's status, headers and body, as text, to requests that look for ``others``."""
    paths = [
        "/v2",
        "/metrics",
        "/routes",
        "/evidence",
        "/routes?model=",
        f"/routes?model={others}",
        f"/evidence?model={others}",
        "/",
        "/docs",
    ]
    paths += [
        "/v2/models",
        "/v2/repository/index",
        f"/v2/models/{mine}",
        f"/v2/models/{mine}/versions/{others}-7",
        f"/v2/models/{mine}/ready",
    ]
    paths += [f"/v2/models/{others}{rest}" for rest in ("", "/ready", f"/versions/{others}-7", f"/versions/{others}-7/ready", "/infer")]
    paths += [f"/v2/models/{mine}/../{others}", f"/v2/models/{others.upper()}", f"/v2/models/{others}%00", f"/v2/models/%2e%2e/{others}"]
    answers = [ask(made, method, path, headers) for path in paths for method in ("GET", "POST", "PUT", "OPTIONS")]
    answers.append(ask(made, "POST", f"/v2/models/{mine}/infer", headers, content=b"q"))
    return [(answer.status_code, str(answer.request.url), f"{dict(answer.headers)} {answer.text}") for answer in answers]


@pytest.mark.parametrize("who", ["alice", "watch"])
def test_a_tenant_sees_nothing_of_another_in_any_answer(house, log, who):
    # Given that bob uses beta, and fails with it too
    alpha, beta = echo("alpha-7"), Actor(lambda ask: whole(b"", status=500 if ask.number % 2 else 200, version="beta-7"), version="beta-7")
    with guarded(house, alpha, beta, log=log) as made:
        for _ in range(6):
            ask(made, "POST", B, house.headers("bob", **{"x-request-id": "bobs-own"}), content=b"q")
        before = len(written(log))
        # When somebody who has alpha only asks everything there is to ask
        found = everything_that_can_be_asked(made, house.headers(who), mine="alpha", others="beta")
        # Then what names beta is only what was said in the question itself, and it reads as it does for a model that is nowhere
        nowhere = everything_that_can_be_asked(made, house.headers(who), mine="alpha", others="zeta")
        for (status, url, text), (other_status, _, other_text) in zip(found, nowhere, strict=True):
            if status == 200 and url.endswith("/metrics"):
                assert "beta" not in text
                continue
            said, other_said = _same(text, "beta"), _same(other_text, "zeta")
            assert (status, said) == (other_status, other_said), url
        assert not any(secret in text for _, _, text in found for secret in ("bob", "bobs-own", beta.url, 'beta-7"'))
        assert any('version="alpha-7"' in text for _, _, text in found) == (who == "watch")
        # And neither name nor model of the other stands in the lines that these requests left
        mine = [line for line in written(log)[before:] if line.get("client") == who]
        assert mine
        assert not any("bob" in json.dumps(line) or line.get("version", "").startswith("beta") for line in mine)
        # And the admin sees both
        page = ask(made, "GET", "/metrics", house.headers("root")).text
        assert 'model="alpha"' in page
        assert 'model="beta"' in page
        assert "alice" not in page
        assert "bob" not in page


def _same(text, name):
    """Return ``text`` without what differs between two questions anyway: the name asked for, ids, lengths and times."""
    text = text.replace(name.upper(), "X").replace(name, "x")
    return re.sub(r"'(x-request-id|date|content-length)': '[^']*'", "", text)


def test_metrics_of_a_tenants_operator_are_of_their_models_only(house):
    with guarded(house, echo("alpha-7"), echo("beta-7")) as made:
        for name, path in (("alice", A), ("bob", B)):
            ask(made, "POST", path, house.headers(name), content=b"q")
        page = ask(made, "GET", "/metrics", house.headers("watch")).text
        assert 'firstlight_gateway_requests_total{code="200",model="alpha"} 1.0' in page
        assert "beta" not in page
        assert "firstlight_gateway_connections" not in page
        assert "firstlight_gateway_connections" in ask(made, "GET", "/metrics", house.headers("root")).text


# The control socket


def test_our_own_key_infers_on_the_control_socket_and_changes_nothing(house, log):
    made_key = access_keys.make()
    actor = echo("alpha-7")
    with guarded(house, actor, log=log, own=own_reader(["alpha"], made_key.text)) as made:

        def say(method, path, key, **more):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return httpx.request(method, made.control.url + path, headers=headers, trust_env=False, **more).status_code

        assert say("POST", A, made_key.text, content=b"q") == 200
        assert actor.asked[-1].headers["x-firstlight-client"] == "canary-replay"
        assert say("POST", B, made_key.text, content=b"q") == 404
        assert say("POST", A, None, content=b"q") == 401
        assert [say(method, path, made_key.text) for method, path in (("GET", "/routes"), ("PUT", "/routes"), ("GET", "/evidence"))] == [
            401
        ] * 3
        assert [say("GET", path, house.keys["root"]) for path in ("/routes?model=alpha", "/metrics")] == [401] * 2
        assert say("GET", "/v2/health/live", None) == 200
        assert [(line["client"], line["proof"]) for line in written(log) if line["status"] == 200] == [("canary-replay", "own key")]


# Secrets


def test_no_secret_reaches_a_log_whatever_is_asked(house, log, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    wrong = access_keys.make().text
    token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2xhYiJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
    body = b"FLUX-OF-AN-EMBARGOED-QUASAR"
    secrets = [house.keys["alice"], wrong, token]
    failing = Actor(lambda ask: None if ask.number % 2 else whole(b"{}", status=500), version="alpha-7")
    with guarded(house, failing, log=log) as made:
        for secret in secrets:
            for headers in (
                {"authorization": f"Bearer {secret}"},
                {"authorization": f"Basic {secret}"},
                {"cookie": secret, "x-api-key": secret},
            ):
                ask(
                    made,
                    "POST",
                    f"{A}?key={secret}&flux=1",
                    {**headers, "x-request-id": secret, "user-agent": secret, "referer": secret},
                    content=body,
                )
                ask(made, "GET", f"/v2/models/{secret}/{secret}", headers)
        with made.connect() as plain:
            plain.sendall(f"POST {A} HTTP/1.1\r\nauthorization: Bearer {house.keys['alice']}\r\ncontent-length: -5\r\n\r\n".encode())
            assert read_answer(plain)[0] == 400
        lines = written(log)
    out, err = capfd.readouterr()
    ours = "".join(str(vars(record)) for record in caplog.records if record.name.split(".")[0] not in ("httpx", "httpcore"))
    everything = log.path.read_text() + ours + out + err
    assert len(lines) >= 18
    for secret in secrets:
        assert secret.split("_", 2)[-1].split(".")[-1] not in everything
    assert not any(word in everything for word in ("EMBARGOED", "flux=1", "?key"))


# Every answer


def test_every_answer_has_the_security_headers_and_no_cors(house):
    wanted = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer", "cache-control": "no-store"}
    with guarded(house, echo("alpha-7")) as made:
        preflight = {
            "origin": "https://evil.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        answers = [
            ask(made, "POST", A, house.headers("alice", origin="https://evil.example"), content=b"q"),
            ask(made, "GET", "/v2/health/live"),
            ask(made, "GET", "/metrics", house.headers("root")),
            ask(made, "POST", A),
            ask(made, "GET", "/nowhere"),
            ask(made, "OPTIONS", A, preflight),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 401, 404, 401]
        heads = [dict(answer.headers) for answer in answers]
        for raw in (b"NONSENSE\r\n\r\n", b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n"):
            with made.connect() as plain:
                plain.sendall(raw)
                status, head, _ = read_answer(plain)
                assert status in (400, 431)
                heads.append(head)
    for head in heads:
        assert {name: head.get(name) for name in wanted} == wanted
        assert head["content-security-policy"].startswith("default-src 'none'")
        assert not any(name.startswith("access-control") for name in head)
        assert "server" not in head


# TLS


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def trusting(authority, pair=None):
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair:
        context.load_cert_chain(*pair)
    return context


def test_a_client_certificate_is_a_caller_over_real_tls(house, log, authority):
    house.client("edge", models=["alpha"], certificates=[{"dns": "edge-01.lab.example"}])
    certificate, key = authority.server()
    actor = echo("alpha-7")
    tls = ServerTls(certificate=certificate, key=key, client_ca=authority.path)
    with guarded(house, actor, log=log, tls=tls) as made:
        edge, other = authority.issue("edge", "edge-01.lab.example"), authority.issue("other", "edge-02.lab.example")
        with httpx.Client(base_url=made.url, trust_env=False, verify=trusting(authority, edge)) as client:
            answers = [client.post(A, content=b"q" * 100_000) for _ in range(3)]
            assert [(answer.status_code, len(answer.content)) for answer in answers] == [(200, 100_000)] * 3
            assert answers[0].headers["strict-transport-security"] == "max-age=31536000"
            assert client.post(B, content=b"q").status_code == 404
            assert client.post(A, content=b"q", headers=house.headers("alice")).status_code == 200
        assert {asked.headers["x-firstlight-client"] for asked in actor.asked[:3]} == {"edge"}
        assert actor.asked[3].headers["x-firstlight-client"] == "alice"
        with httpx.Client(base_url=made.url, trust_env=False, verify=trusting(authority, other)) as client:
            assert client.post(A, content=b"q").status_code == 401
        with pytest.raises(httpx.HTTPError), httpx.Client(base_url=made.url, trust_env=False, verify=trusting(authority)) as client:
            client.post(A, content=b"q", headers=house.headers("alice"))
        assert next(line["proof"] for line in written(log) if line["status"] == 200) == "certificate"
        # A header that claims to carry a certificate is just a header
        with httpx.Client(base_url=made.url, trust_env=False, verify=trusting(authority, other)) as client:
            said = {
                "x-forwarded-tls-client-cert": edge[0].read_text().replace("\n", ""),
                "x-forwarded-tls-client-cert-info": 'Subject="CN=edge"',
            }
            assert client.post(A, content=b"q", headers=said).status_code == 401
        # and plain HTTP gets no answer on this port
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"http://127.0.0.1:{made.port}{A}", content=b"q", headers=house.headers("alice"), trust_env=False)


def test_who_never_ends_the_handshake_holds_nobody_up(house, authority):
    certificate, key = authority.server()
    with guarded(house, echo("alpha-7"), tls=ServerTls(certificate=certificate, key=key)) as made, contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(made.connect()).sendall(b"\x16\x03\x01")
        began = time.monotonic()
        with httpx.Client(base_url=made.url, trust_env=False, verify=trusting(authority)) as client:
            assert client.post(A, content=b"q", headers=house.headers("alice")).status_code == 200
        assert time.monotonic() - began < 8
