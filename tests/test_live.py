"""The same behaviours against a real account: `pytest -m live --connection-name NAME`.

Everything happens in a scratch schema of the connection's database, which is made at the start and dropped at the end.
docs/live.md says what only such a run can settle; the tests that do are marked there by their names.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Stack
from fileset_integrations.errors import FileSetExistsError, FileSetLocationError, QueryError, StageNotFoundError
from fileset_integrations.storage.connecting import SnowflakeSession, session
from fileset_integrations.storage.locations import identifier
from fileset_integrations.storage.opening import open_storage
from fileset_integrations.storage.stage import StageStorage
from tests.support.data import plain

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]

ROWS = 200_000
NUMBERS = f"SELECT SEQ8() AS N, UNIFORM(0::FLOAT, 1::FLOAT, RANDOM()) AS X FROM TABLE(GENERATOR(ROWCOUNT => {ROWS}))"


@dataclass(frozen=True)
class Live:
    """A scratch schema."""

    profile: str
    session: SnowflakeSession
    schema: str  # "DB"."SCHEMA"

    @property
    def place(self) -> dict[str, Any]:
        return {"target_stage_loc": f"@{self.schema}.FILES/sets", "connection_name": self.profile}

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.session.execute(sql).rows

    def storage(self) -> StageStorage:
        found = open_storage(self.place["target_stage_loc"], session=self.session)
        assert isinstance(found, StageStorage)
        return found


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    profile = request.config.getoption("--connection-name")
    if not profile:
        pytest.skip("needs an account: pytest -m live --connection-name NAME, a profile in connections.toml")
    opened = session(None, profile)
    ((database,),) = opened.execute("SELECT CURRENT_DATABASE()").rows
    assert database, f"the profile {profile!r} names no database; the scratch schema is made in it"
    schema = f"{identifier(database)}.{identifier('FILESET_LIVE_' + uuid.uuid4().hex[:12].upper())}"
    opened.execute(f"CREATE SCHEMA {schema}")
    try:
        opened.execute(f"CREATE STAGE {schema}.FILES ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
        opened.execute(
            f"CREATE TABLE {schema}.NUMBERS AS SELECT ROW_NUMBER() OVER (ORDER BY N) AS ID, X FROM ({NUMBERS})"
        )
        yield Live(profile, opened, schema)
    finally:
        opened.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(autouse=True)
def own_cache(cache: Any) -> None:
    """Nothing is found in a cache that an earlier test filled."""


@pytest.fixture(scope="module")
def made(live: Live) -> FileSet:
    return FileSet.make(
        name="numbers", query=f"SELECT * FROM {live.schema}.NUMBERS", max_file_bytes=500_000, **live.place
    )


def test_a_query_becomes_files_of_about_the_size_asked_for(made: FileSet, live: Live) -> None:
    opened = FileSet(name="numbers", **live.place)

    assert opened.snapshot_id == made.snapshot_id
    assert opened.num_rows == ROWS
    assert opened.manifest.files.num_rows > 1
    assert sorted(opened.to_arrow(["ID"])["ID"].to_pylist()) == list(range(1, ROWS + 1))
    opened.verify()


def test_batches_are_those_of_a_copy_in_a_directory(made: FileSet, tmp_path: Any) -> None:
    here = made.copy_to(tmp_path)

    for epoch in range(2):
        batches = [
            [plain(batch) for batch in FileSetReader(fs, batch_size=10_000, shuffle=True).iter_batches(epoch)]
            for fs in (here, made)
        ]
        assert batches[0] == batches[1]


def test_a_directorys_files_are_uploaded_unaltered(live: Live, tmp_path: Any) -> None:
    here = FileSet.make(target_stage_loc=tmp_path, name="up", query="SELECT i FROM range(100000) t(i)")

    there = here.copy_to(live.place["target_stage_loc"], connection_name=live.profile)

    there.verify()
    assert there.to_arrow().equals(here.to_arrow())
    there.delete()


def test_list_states_the_md5_of_the_content(made: FileSet, live: Live) -> None:
    """Whether LIST's md5 is that of the content in this account's cloud: `StageKind.usable_md5`."""
    storage = live.storage()
    kind = storage.kind()

    listed = storage.listed("sets/numbers/run-")
    assert all(kind.usable_md5(file) for file in listed), [file.md5 for file in listed][:3]
    made.pull()  # which compares them


def test_every_type_comes_without_loss(live: Live) -> None:
    """What an unload makes of each type: `cast_of`, `check_unloaded`."""
    fs = FileSet.make(
        name="types",
        query="""
            SELECT 123456789012345678::NUMBER(18, 0) AS I18, 9::NUMBER(38, 0) AS I38, 1.25::NUMBER(10, 2) AS D10,
              0.1::FLOAT AS F, 0.1::DOUBLE AS D, TRUE AS B, 'text' AS T,
              '2024-02-29'::DATE AS DAY, '2024-01-02 03:04:05.678'::TIMESTAMP_NTZ(3) AS NTZ,
              '2024-01-02T03:04:05.678+02:00'::TIMESTAMP_TZ(3) AS TZ, NULL::INTEGER AS NOTHING,
              PARSE_JSON('{"a": [1, 2]}') AS V
        """,
        **live.place,
    )

    row = fs.to_arrow().to_pylist()[0]
    types = {field.name: field.type for field in fs.schema}
    assert (row["I18"], row["I38"], row["D10"], row["F"], row["D"]) == (123456789012345678, 9, 1.25, 0.1, 0.1)
    assert (types["I18"], types["I38"], types["D10"], types["F"]) == (
        pa.int64(),
        pa.int64(),
        pa.float64(),
        pa.float64(),
    )
    assert (row["B"], row["T"], str(row["DAY"])) == (True, "text", "2024-02-29")
    assert str(row["NTZ"]) == "2024-01-02 03:04:05.678000"
    assert str(row["TZ"]) == "2024-01-02 01:04:05.678000"
    assert row["NOTHING"] is None
    fs.delete()


def test_bytes_come_as_bytes(live: Live) -> None:
    fs = FileSet.make(name="bytes", query="SELECT TO_BINARY('00FF', 'HEX') AS BIN", **live.place)

    assert fs.to_arrow()["BIN"].to_pylist() == [b"\x00\xff"]
    fs.delete()


def test_vectors_come_as_lists_of_numbers(live: Live) -> None:
    """Whether TO_ARRAY(vector) can be cast to a structured array, and how that is unloaded: `cast_of`."""
    fs = FileSet.make(name="vectors", query="SELECT [0.5, -1.5, 2]::VECTOR(FLOAT, 3) AS V", **live.place)

    assert fs.to_arrow()["V"].to_pylist() == [[0.5, -1.5, 2.0]]
    batch = FileSetReader(fs, columns=Columns({"v": Stack("V", shape=(3,))}), batch_size=1).batch(0)
    assert np.asarray(batch["v"]).shape == (1, 3)
    fs.delete()


def test_an_integer_beyond_18_digits_fails_loudly(live: Live) -> None:
    with pytest.raises(QueryError, match="could not run the query"):
        FileSet.make(name="wide", query="SELECT 12345678901234567890::NUMBER(38, 0) AS W", **live.place)


def test_a_shuffle_by_key_gives_the_same_rows_in_the_same_order(live: Live) -> None:
    """Whether the order of an ORDER BY holds across the files of an unload."""
    query = f"SELECT ID FROM {live.schema}.NUMBERS"
    made = [
        FileSet.make(
            name=name, query=query, shuffle=True, seed=3, shuffle_key="ID", max_file_bytes=200_000, **live.place
        )
        for name in ("shuffled1", "shuffled2")
    ]

    orders = [fs.to_arrow()["ID"].to_pylist() for fs in made]
    assert sorted(orders[0]) == list(range(1, ROWS + 1)) != orders[0]
    assert orders[0] == orders[1]


def test_a_name_is_given_once(made: FileSet, live: Live) -> None:
    with pytest.raises(FileSetExistsError):
        FileSet.make(name="numbers", query="SELECT 1 AS A", **live.place)


@pytest.mark.parametrize("name", ["my stage", 'a"b', "x' ; DROP", "dots.in.it", "späße", "a_b%c"])
def test_stages_of_any_name(name: str, live: Live) -> None:
    """How LIST writes the names of quoted stages: `path_in_stage`."""
    live.run(f"CREATE STAGE {live.schema}.{identifier(name)} ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
    place = {"target_stage_loc": f"@{live.schema}.{identifier(name)}/sets", "connection_name": live.profile}

    fs = FileSet.make(name="one", query="SELECT 1 AS A", **place)

    assert FileSet(name="one", **place).to_arrow().to_pylist() == [{"A": 1}]
    fs.delete()


def test_a_stage_that_the_client_encrypts_is_refused(live: Live) -> None:
    live.run(f"CREATE STAGE {live.schema}.CSE ENCRYPTION = (TYPE = 'SNOWFLAKE_FULL')")

    with pytest.raises(FileSetLocationError, match="SNOWFLAKE_SSE"):
        FileSet.make(
            target_stage_loc=f"@{live.schema}.CSE/sets", name="n", query="SELECT 1 AS A", connection_name=live.profile
        )
    with pytest.raises(StageNotFoundError):
        FileSet.make(
            target_stage_loc=f"@{live.schema}.NONE/sets", name="n", query="SELECT 1 AS A", connection_name=live.profile
        )


def test_no_rows_are_a_snapshot(live: Live) -> None:
    fs = FileSet.make(name="empty", query="SELECT 1 AS A WHERE FALSE", **live.place)

    assert FileSet(name="empty", **live.place).num_rows == 0
    fs.delete()


def test_delete_leaves_nothing(live: Live) -> None:
    fs = FileSet.make(name="gone", query="SELECT 1 AS A", digest="readback", **live.place)

    fs.delete()

    assert live.storage().listed("sets/gone/") == []
