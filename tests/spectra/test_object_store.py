"""Objects in S3, against a real server that speaks its protocol."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from firstlight.errors import TransientError
from spectra import SpectraError, read, read_many
from spectra.object_store import Location, ObjectStore, location


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint, request) -> ObjectStore:
    store = ObjectStore(endpoint, access_key="key", secret_key="secret", max_bytes=10_000_000)
    store._client.create_bucket(Bucket=bucket(request))
    return store


def bucket(request) -> str:
    return "b" + request.node.nodeid.rpartition("::")[2].replace("_", "-").lower()[:60].strip("-")


@pytest.fixture
def prefix(request) -> str:
    return f"s3://{bucket(request)}/healpix/sv3"


def test_a_file_is_read_from_the_store_as_from_disk_with_its_siblings(store, prefix, coadd, table_file, tmp_path):
    path = coadd.write(tmp_path / "coadd-x.fits")
    truth = {"TARGETID": coadd.ids, "TRUESPECTYPE": np.full(4, "QSO"), "TRUEZ": np.arange(4.0), "ANOMALY": np.full(4, "blend")}
    siblings = [
        table_file(tmp_path / "redrock-x.fits", "REDSHIFTS", {"TARGETID": coadd.ids, "Z": np.arange(4.0)}),
        table_file(tmp_path / "truth-x.fits", "TRUTH", truth),
    ]
    for file in (path, *siblings):
        store.upload(file, f"{prefix}/{file.name}")
    batch = read(f"{prefix}/coadd-x.fits", store=store)
    np.testing.assert_array_equal(batch.flux, read(path).flux)
    assert batch.metadata.z.tolist() == [0, 1, 2, 3]
    assert set(batch.metadata.anomaly) == {"blend"}
    assert set(batch.metadata.source_file) == {f"{prefix}/coadd-x.fits"}


def test_a_prefix_stands_for_the_spectra_under_it_and_a_bad_object_costs_no_other(store, prefix, coadd, tmp_path):
    store.upload(coadd.write(tmp_path / "coadd-x.fits"), f"{prefix}/1/coadd-x.fits")
    (tmp_path / "bad").write_bytes(b"not FITS")
    store.upload(tmp_path / "bad", f"{prefix}/2/coadd-y.fits")
    batch, refused = read_many(f"{prefix}/", store=store)
    assert len(batch) == 4
    assert [file.source_file for file in refused] == [f"{prefix}/2/coadd-y.fits"]


def test_a_broken_sibling_is_named_by_its_uri(store, prefix, coadd, tmp_path):
    store.upload(coadd.write(tmp_path / "coadd-x.fits"), f"{prefix}/coadd-x.fits")
    (tmp_path / "bad").write_bytes(b"not FITS")
    store.upload(tmp_path / "bad", f"{prefix}/redrock-x.fits")
    with pytest.raises(SpectraError, match=f"{prefix}/redrock-x.fits"):
        read(f"{prefix}/coadd-x.fits", store=store)


def test_a_missing_key_or_bucket_is_refused_and_not_worth_a_retry(store, prefix):
    assert not store.exists(f"{prefix}/coadd-absent.fits")
    with pytest.raises(SpectraError, match="no such object"):
        read(f"{prefix}/coadd-absent.fits", store=store)
    with pytest.raises(SpectraError, match="check bucket"):
        list(store.list("s3://nobucketofthisname/x/"))


def test_an_object_that_is_too_large_is_refused_before_it_is_fetched(store, prefix, tmp_path):
    (tmp_path / "large").write_bytes(bytes(10_000_001))
    store.upload(tmp_path / "large", f"{prefix}/coadd-large.fits")
    with pytest.raises(SpectraError, match="10000001"):
        store.local_copy(f"{prefix}/coadd-large.fits", tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


def test_a_listing_of_more_than_a_page_is_whole(store, prefix, request):
    backend = s3_backends["123456789012"]["aws"]  # the server's own, in this process: a thousand uploads take seconds
    for number in range(1005):
        backend.put_object(bucket(request), f"healpix/sv3/{number:04}", b"")
    assert [uri.rpartition("/")[2] for uri in store.list(f"{prefix}/")] == [f"{number:04}" for number in range(1005)]


def test_a_store_that_is_not_there_is_transient_and_says_so_within_its_attempts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        store = ObjectStore(f"http://127.0.0.1:{taken.getsockname()[1]}", access_key="k", secret_key="s")
        with pytest.raises(TransientError, match="repeat"):
            read("s3://bucket/coadd-x.fits", store=store)


@contextmanager
def answering(head: bytes, get: bytes) -> Iterator[str]:
    """A server that sends these bytes to every HEAD and GET and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(head if connection.recv(65536).startswith(b"HEAD") else get)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"


def test_a_download_that_breaks_off_is_transient_and_leaves_nothing_behind(tmp_path):
    with answering(LENGTH, LENGTH + b"x" * 400) as url:
        store = ObjectStore(url, access_key="k", secret_key="s")
        with pytest.raises(TransientError, match="coadd-x"):
            store.local_copy("s3://bucket/coadd-x.fits", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_trouble_is_transient(tmp_path):
    trouble = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(trouble, trouble) as url, pytest.raises(TransientError, match="503"):
        ObjectStore(url, access_key="k", secret_key="s").exists("s3://bucket/x")


def test_a_refusal_of_the_store_is_not_transient(tmp_path):
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(refusal, refusal) as url, pytest.raises(SpectraError, match="credentials"):
        ObjectStore(url, access_key="k", secret_key="s").exists("s3://bucket/x")


def test_path_style_and_anonymous_access_are_what_the_server_sees(tmp_path):
    seen = {}
    for path_style in (True, False):
        store = ObjectStore("http://localhost:9", path_style=path_style, anonymous=True)
        seen[path_style] = store._client.generate_presigned_url("get_object", Params={"Bucket": "desidata", "Key": "dr1/x"})
    assert seen[True] == "http://localhost:9/desidata/dr1/x"


@pytest.mark.parametrize("settings", [{"ca_bundle": "/nowhere/ca.pem"}, {"endpoint_url": "not a url"}], ids=str)
def test_settings_that_cannot_work_are_refused_at_once(settings):
    with pytest.raises(SpectraError):
        ObjectStore(**settings)


def test_uris_are_taken_apart_and_others_refused():
    assert location("s3://bucket/a/b c#1.fits") == Location(bucket="bucket", key="a/b c#1.fits")
    for wrong in ("s3://", "/a/b", "https://x/y"):
        with pytest.raises(SpectraError, match="s3://bucket/key"):
            location(wrong)


def test_a_prefix_cannot_be_copied_as_a_file(store, prefix, tmp_path):
    with pytest.raises(SpectraError, match="name one file"):
        store.local_copy(f"{prefix}/", tmp_path)


def test_a_key_cannot_place_its_copy_outside_the_folder(store, request, tmp_path):
    store._client.put_object(Bucket=bucket(request), Key="a/../../evil.fits", Body=b"x")
    copy = store.local_copy(f"s3://{bucket(request)}/a/../../evil.fits", tmp_path / "in")
    assert copy == tmp_path / "in" / "evil.fits"
    assert [path for path in Path(tmp_path).rglob("*") if path.is_file()] == [copy]


def test_what_is_written_once_stays_as_it_was_where_the_bucket_keeps_versions_and_locks_them(store, request):
    plain, locked = bucket(request), f"locked-{bucket(request)[:40]}"
    store._client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    keep_until = datetime.now(UTC) + timedelta(days=2)
    for name in (plain, locked):
        uri = f"s3://{name}/anchors/1.json"
        assert [store.put_once(data, uri, keep_until=keep_until) for data in (b"first", b"second")] == [True, False]
        store._client.put_object(Bucket=name, Key="anchors/1.json", Body=b"forged")
        found = {key: store.read_version(key, version, limit=6) for key, version in store.first_versions(f"s3://{name}/anchors/").items()}
        assert found == {uri: b"first" if name == locked else b"forged"}
        assert store.has_object_lock(uri) == (name == locked)
    version = store.first_versions(uri)[uri]
    assert store._client.head_object(Bucket=locked, Key="anchors/1.json", VersionId=version)["ObjectLockMode"] == "COMPLIANCE"
    with pytest.raises(SpectraError, match="at most 2 bytes, found more"):
        store.read_version(uri, version, limit=2)
    # a bucket that has a rule of its own is left to it
    ruled = f"ruled-{plain[:40]}"
    store._client.create_bucket(Bucket=ruled, ObjectLockEnabledForBucket=True)
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 9}}}
    store._client.put_object_lock_configuration(Bucket=ruled, ObjectLockConfiguration=rule)
    assert store.put_once(b"x", f"s3://{ruled}/anchors/2.json", keep_until=keep_until)
    assert store._client.head_object(Bucket=ruled, Key="anchors/2.json")["ObjectLockMode"] == "GOVERNANCE"
    with pytest.raises(SpectraError, match="check bucket and key"):
        store.first_versions("s3://no-such-bucket-here/x")
