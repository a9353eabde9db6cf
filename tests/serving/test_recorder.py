"""What a model server answered, as rows: complete for open data, silent about the inputs of protected data."""

import numpy as np
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from models.summary import summarise
from monitoring import inference_log
from monitoring.inference_log import COLUMNS
from serving.errors import SettingsError
from serving.options import ModelOptions, S3Options
from serving.recorder import TEXT_LIMIT, Recorder, input_digest

GENERATOR = np.random.default_rng(7)


def spectra(rows):
    flux = GENERATOR.normal(2, 1, (rows, 101)).astype(np.float32)
    ivar = GENERATOR.gamma(2, 1, (rows, 101)).astype(np.float32)
    ivar[:, :3] = 0
    return {"flux": flux, "ivar": ivar}


def answers(rows):
    return {
        "anomaly_score": GENERATOR.normal(size=rows).astype(np.float32),
        "latent": GENERATOR.normal(size=(rows, 3)).astype(np.float32),
        "reconstruction": np.zeros((rows, 101), np.float32),
    }


def recorder(folder, **options):
    return Recorder(folder, **{"model": "vae", "version": "7", "environment": "test", "data_class": "Public-External", **options})


def record(made, inputs, outputs, *, request_id="one", **more):
    made.record(request_id=request_id, client="ada", model_digest="d" * 64, inputs=inputs, outputs=outputs, **more)


def logged(folder):
    return inference_log.read(folder, model="vae")


def test_every_row_says_who_asked_what_when_which_bytes_answered_and_what_they_said(tmp_path):
    made, sent, given = recorder(tmp_path), spectra(3), answers(3)
    record(made, sent, given)
    made.close()
    table = logged(tmp_path)
    assert made.counts() == {"written": 3, "dropped": 0, "failed": 0}
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    first = table.iloc[0]
    assert (first["request_id"], first["client"], first["environment"]) == ("one", "ada", "test")
    assert (first["model"], first["version"], first["model_digest"]) == ("vae", "7", "d" * 64)
    assert abs((pd.Timestamp.now(tz="UTC") - first["time"]).total_seconds()) < 30
    assert table["row"].tolist() == [0, 1, 2]
    assert set(table["input_digest"]) == {input_digest(sent)}
    expected = summarise(sent, given)
    pd.testing.assert_frame_equal(table[list(expected)], expected)
    assert not [name for name in table if name.startswith("reconstruction")]


def test_requests_of_every_size_are_summarised_together_and_say_what_each_would_alone(tmp_path):
    made = recorder(tmp_path)
    requests = [(f"r{number}", spectra(rows), answers(rows)) for number, rows in enumerate((1, 5, 1, 40, 2))]
    for name, sent, given in requests:
        record(made, sent, given, request_id=name)
    made.close()
    table = logged(tmp_path)
    for name, sent, given in requests:
        mine = table[table["request_id"] == name].sort_values("row", ignore_index=True)
        expected = summarise(sent, given)
        pd.testing.assert_frame_equal(mine[list(expected)], expected)
        assert set(mine["input_digest"]) == {input_digest(sent)}


@pytest.mark.parametrize("data_class", ["Protected", "Secrets", None, "Something new"])
def test_protected_and_secret_inputs_leave_no_trace_neither_value_nor_feature_nor_digest(tmp_path, data_class):
    made = recorder(tmp_path, data_class=data_class)
    sent, given = {**spectra(2), "redshift_guess": np.array([0.123456, 0.2])}, answers(2)
    assert not made.takes_inputs
    record(made, sent, given, input_digest=input_digest(sent))
    made.close()
    table = logged(tmp_path)
    assert set(table.columns) == {*COLUMNS, "anomaly_score", "latent_0", "latent_1", "latent_2"}
    assert table["input_digest"].isna().all()
    np.testing.assert_allclose(table["anomaly_score"], given["anomaly_score"])
    # nor in any byte of what was written
    (part,) = tmp_path.rglob("part-*.parquet")
    assert input_digest(sent).encode() not in part.read_bytes()
    assert np.float64(0.123456).tobytes() not in part.read_bytes()


def test_what_was_protected_becomes_open_only_when_the_hand_off_says_so(tmp_path):
    made = recorder(tmp_path, data_class=None)
    record(made, spectra(1), answers(1))
    made.classify("Public-Internal")
    assert made.takes_inputs
    record(made, spectra(1), answers(1), request_id="two")
    made.close()
    table = logged(tmp_path).set_index("request_id")
    assert pd.isna(table.loc["one", "flux_median"])
    assert np.isfinite(table.loc["two", "flux_median"])


def test_a_digest_the_cache_has_already_is_taken_as_it_is(tmp_path):
    made = recorder(tmp_path)
    record(made, spectra(1), answers(1), input_digest="handed over")
    made.close()
    assert logged(tmp_path)["input_digest"].tolist() == ["handed over"]


def test_the_digest_knows_names_types_shapes_and_bytes_and_not_their_order():
    one, two = np.arange(6, dtype=np.float32), np.ones(2)
    known = input_digest({"a": one, "b": two})
    assert len(known) == 64
    assert known == input_digest({"b": two, "a": one})
    different = [
        {"a": one, "c": two},
        {"a": one.astype(np.float64), "b": two},
        {"a": one.reshape(2, 3), "b": two},
        {"a": one + 1, "b": two},
        {"a": two, "b": one},
    ]
    assert len({known, *map(input_digest, different)}) == 6
    transposed = np.arange(6.0).reshape(2, 3)
    assert input_digest({"a": transposed.T}) == input_digest({"a": transposed.T.copy()})
    texts = [np.array(values, dtype=object) for values in ([b"ab", b"c"], [b"a", b"bc"], ["ab", "c"])]
    assert len({input_digest({"a": value}) for value in texts}) == 2


def test_sampling_takes_its_share_and_nothing_else(tmp_path):
    made = recorder(tmp_path, sample=0.25)
    assert 150 < sum(made.wants() for _ in range(1000)) < 350
    assert all(recorder(tmp_path).wants() for _ in range(100))


def test_texts_are_logged_short_numbers_of_every_kind_and_a_name_of_ours_is_kept_apart(tmp_path):
    made = recorder(tmp_path)
    given = {
        "label": np.array([b"QSO", "ü" * 1000], dtype=object),
        "count": np.array([[3], [4]], dtype=np.int64),
        "is_odd": np.array([True, False]),
        "time": np.array([1.5, 2.5]),
    }
    record(made, {"name": np.array([b"a", b"b"], dtype=object), "cube": np.zeros((2, 3, 3), np.float32)}, given)
    made.close()
    table = logged(tmp_path)
    assert table["label"].tolist() == ["QSO", "ü" * TEXT_LIMIT]
    assert (table["count"].tolist(), table["is_odd"].tolist(), table["time_value"].tolist()) == ([3, 4], [1, 0], [1.5, 2.5])
    assert table["time"].dt.year.min() > 2020


def test_a_model_with_nothing_short_to_say_still_leaves_who_asked_when_and_how_many(tmp_path):
    made = recorder(tmp_path, data_class="Protected")
    record(made, {}, {"reconstruction": np.zeros((3, 101), np.float32)})
    record(made, {}, {}, request_id="two", rows=2)
    made.close()
    table = logged(tmp_path)
    assert list(table.columns) == list(COLUMNS)
    assert table.groupby("request_id")["row"].apply(list).to_dict() == {"one": [0, 1, 2], "two": [0, 1]}


def test_one_request_that_does_not_fit_costs_no_other_its_rows(tmp_path):
    made = recorder(tmp_path)
    record(made, spectra(2), answers(2))
    record(made, spectra(3), answers(2), request_id="crooked")
    record(made, spectra(1), answers(1), request_id="three")
    made.close()
    assert made.counts() == {"written": 3, "dropped": 0, "failed": 2}
    assert sorted(set(logged(tmp_path)["request_id"])) == ["one", "three"]


def test_counts_are_metrics_by_outcome(tmp_path):
    made, registry = recorder(tmp_path), CollectorRegistry()
    registry.register(made.metrics())
    record(made, spectra(3), answers(3))
    made.close()
    page = generate_latest(registry).decode()
    assert 'firstlight_inference_log_rows_total{model="vae",outcome="written",version="7"} 3.0' in page
    assert 'firstlight_inference_log_spool_bytes{model="vae",version="7"} 0.0' in page


def made_by(options):
    return Recorder.by_options(options, s3=S3Options(), model="vae", version="7", environment="test")


def test_no_log_is_no_recorder_and_a_log_in_s3_needs_a_place_where_parts_wait(tmp_path):
    assert made_by(ModelOptions()) is None
    assert made_by(ModelOptions(inference_log=str(tmp_path), inference_log_sample=0)) is None
    assert isinstance(made_by(ModelOptions(inference_log=str(tmp_path))), Recorder)
    assert isinstance(made_by(ModelOptions(inference_log="s3://bucket/log", inference_log_spool=tmp_path)), Recorder)
    with pytest.raises(SettingsError, match="inference_log_spool"):
        made_by(ModelOptions(inference_log="s3://bucket/log"))
