"""The manifest: what it keeps, that it cannot be altered unseen, and that no secret gets into it."""

import io
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations import FileSet
from fileset_integrations import manifest as manifest_module
from fileset_integrations.errors import FileSetCorruptError
from fileset_integrations.manifest import (
    DataFile,
    Manifest,
    file_table,
    is_plain_relative,
    mask_secrets,
    natural_key,
)
from fileset_integrations.plan import BLOCK_ROWS
from tests.support import count

SCHEMA = pa.schema([("id", pa.int64()), ("tags", pa.list_(pa.string())), ("when", pa.timestamp("us", "UTC"))])


def a_manifest(**changes) -> Manifest:
    files = [DataFile("data_0.parquet", 10, 900, "ab" * 32, (6, 4)), DataFile("data_1.parquet", 3, 300, None, (3,))]
    facts = {
        "snapshot_id": "1c7f0f1e-0000-4000-8000-000000000000",
        "files": file_table(files),
        "schema": SCHEMA,
        "null_counts": {"id": 0, "tags": 2},
        "query": "SELECT 'ä' AS \"x\"",
        "query_sha256": "cd" * 32,
        "query_id": "q-1",
        "engine": "duckdb",
        "engine_version": "2.0.0",
        "shuffle": True,
        "shuffle_key": ("id", "when"),
        "seed": 2**63 - 1,
        "reproducible": True,
        "created_at": "2026-01-02T03:04:05+00:00",
    }
    return Manifest(**{**facts, **changes})


def rewritten(data: bytes, table=lambda table: table, metadata=lambda metadata: metadata) -> bytes:
    """The manifest's file with its table or metadata changed, and everything else as it was."""
    file = pq.ParquetFile(io.BytesIO(data))
    sink = io.BytesIO()
    pq.write_table(table(file.read()).replace_schema_metadata(metadata(dict(file.metadata.metadata))), sink)
    return sink.getvalue()


def test_a_manifest_comes_back_from_its_file_as_it_was():
    manifest = a_manifest()

    again = Manifest.from_bytes(manifest.to_bytes(), "somewhere")

    for name in Manifest.__dataclass_fields__:
        assert getattr(again, name) == getattr(manifest, name), name
    assert again.num_rows == 13
    assert again.num_bytes == 1200
    assert again.paths == ["data_0.parquet", "data_1.parquet"]
    assert again.file_rows.tolist() == [10, 3]


def test_a_manifest_can_be_read_with_any_parquet_tool():
    table = pq.read_table(io.BytesIO(a_manifest().to_bytes()))

    assert table.select(["path", "rows", "bytes"]).to_pylist()[1] == {"path": "data_1.parquet", "rows": 3, "bytes": 300}


def test_a_manifest_pickles():
    assert pickle.loads(pickle.dumps(a_manifest())).files == a_manifest().files


def test_an_altered_file_table_is_refused():
    data = a_manifest().to_bytes()
    place = pq.read_schema(io.BytesIO(data)).get_field_index("rows")

    altered = rewritten(data, table=lambda table: table.set_column(place, table.field(place), [[10, 4]]))

    with pytest.raises(FileSetCorruptError, match=r"^here/flights: the manifest .*digest"):
        Manifest.from_bytes(altered, "here/flights")


def test_altered_facts_are_refused():
    altered = rewritten(
        a_manifest().to_bytes(),
        metadata=lambda metadata: {key: value.replace(b"duckdb", b"duckdc") for key, value in metadata.items()},
    )

    with pytest.raises(FileSetCorruptError, match="digest"):
        Manifest.from_bytes(altered, "here")


def test_a_manifest_of_another_format_is_refused_with_both_formats(monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(manifest_module, "FORMAT", 9)
        data = a_manifest().to_bytes()

    with pytest.raises(FileSetCorruptError, match="format 9, this version reads format 1"):
        Manifest.from_bytes(data, "here")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"{}", b"\0" * 100], ids=["empty", "magic", "json", "zeros"])
def test_what_is_no_manifest_is_refused_by_its_path(data):
    with pytest.raises(FileSetCorruptError, match=r"^here: the manifest cannot be read"):
        Manifest.from_bytes(data, "here")


def test_a_parquet_file_of_somebody_elses_is_no_manifest():
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)

    with pytest.raises(FileSetCorruptError, match=r"^here: the manifest cannot be read"):
        Manifest.from_bytes(sink.getvalue(), "here")


def test_a_manifest_cut_short_anywhere_is_refused():
    data = a_manifest().to_bytes()

    for stop in range(0, len(data), max(1, len(data) // count(60, 3000))):
        with pytest.raises(FileSetCorruptError):
            Manifest.from_bytes(data[:stop], "here")


def test_a_manifest_with_one_byte_changed_is_refused_or_means_the_same():
    manifest = a_manifest()
    data = bytearray(manifest.to_bytes())
    refused = 0

    for place in range(0, len(data), max(1, len(data) // count(120, 3000))):
        data[place] ^= 0x40
        try:
            again = Manifest.from_bytes(bytes(data), "here")
        except FileSetCorruptError:
            refused += 1
        else:  # page statistics and the like, which nobody reads
            assert (again.files, again.schema, again.to_bytes()) == (manifest.files, SCHEMA, manifest.to_bytes())
        data[place] ^= 0x40

    assert refused > 30


@pytest.mark.parametrize(
    "path", ["../other/data.parquet", "/etc/passwd", "a/../../b", "a//b", "./a", "a/.", "C:/x", "a\\b", "", "s3://b/k"]
)
def test_a_manifest_that_lists_files_outside_its_directory_is_refused(path):
    data = a_manifest(files=file_table([DataFile(path, 1, 1, None, (1,))])).to_bytes()

    with pytest.raises(FileSetCorruptError, match="not a plain path below"):
        Manifest.from_bytes(data, "here")


@pytest.mark.parametrize("path", ["data.parquet", "run-1/data_0.parquet", "a b/ü.parquet", "..a", "a..", "year=2013/x"])
def test_plain_relative_paths_are_accepted(path):
    assert is_plain_relative(path)


def test_large_files_are_cut_into_blocks_by_the_row_groups_in_the_manifest():
    groups = (BLOCK_ROWS // 2,) * 5
    files = [
        DataFile("a", 7, 1, None, (7,)),
        DataFile("b", sum(groups), 1, None, groups),
        DataFile("c", 0, 1, None, ()),
    ]

    blocks = Manifest.from_bytes(a_manifest(files=file_table(files)).to_bytes(), "here").blocks()

    assert blocks.file.tolist() == [0, 1, 1, 1, 2]
    assert blocks.rows.tolist() == [7, BLOCK_ROWS, BLOCK_ROWS, BLOCK_ROWS // 2, 0]
    assert blocks.first_group.tolist() == [0, 0, 2, 4, 0]
    assert blocks.num_groups.tolist() == [-1, 2, 2, 1, -1]


def test_a_large_file_of_one_row_group_is_one_block():
    files = file_table([DataFile("a", BLOCK_ROWS + 1, 1, None, (BLOCK_ROWS + 1,))])

    assert a_manifest(files=files).blocks().rows.tolist() == [BLOCK_ROWS + 1]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux shows them")
def test_opening_leaves_no_thread_of_arrows_that_the_end_of_the_process_could_strike(tmp_path):
    program = f"""if True:
        import os
        import pyarrow.parquet
        from fileset_integrations import FileSet
        before = os.listdir("/proc/self/task")
        FileSet(target_stage_loc={str(tmp_path)!r}, name="ten")
        print(len(os.listdir("/proc/self/task")) - len(before))"""
    FileSet.make(target_stage_loc=tmp_path, name="ten", query="SELECT 1 AS a")

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)

    assert int(done.stdout) == 0


def test_a_table_of_a_million_files_opens():
    number = count(50_000, 1_000_000)
    files = file_table([])
    columns = {
        "path": [f"run-1/data_{file}.parquet" for file in range(number)],
        "rows": np.full(number, 1000),
        "bytes": np.full(number, 50_000),
        "sha256": [f"{file:064x}" for file in range(number)],
        "row_groups": pa.nulls(number, files.schema.field("row_groups").type),
    }
    files = pa.table(
        [pa.array(column, files.schema.field(name).type) for name, column in columns.items()], files.schema
    )

    manifest = Manifest.from_bytes(a_manifest(files=files).to_bytes(), "here")

    assert manifest.num_rows == 1000 * number
    assert len(manifest.blocks()) == number


# --- the order of files ----------------------------------------------------------------------------------------------


def test_paths_sort_by_the_numbers_in_them():
    paths = ["data_10.parquet", "data_9.parquet", "b/1.parquet", "b/01.parquet", "a2/x.parquet", "a10/x.parquet"]

    assert sorted(paths, key=natural_key) == [
        "a2/x.parquet",
        "a10/x.parquet",
        "b/01.parquet",
        "b/1.parquet",
        "data_9.parquet",
        "data_10.parquet",
    ]


@given(st.lists(st.text("ab01/._²٣", min_size=1, max_size=6), max_size=8))
def test_any_paths_can_be_sorted_and_always_into_the_same_order(paths):
    expected = sorted(paths, key=natural_key)

    for other in (paths[::-1], sorted(paths)):
        assert sorted(other, key=natural_key) == expected


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('https://host/x.csv?X-Amz-Signature=hunter2&X-Amz-Expires=9')",
        "SELECT * FROM 's3://bucket/x.parquet?s3_access_key_id=A&s3_secret_access_key=hunter2'",
        "SELECT * FROM 'https://me:hunter2@host/x.parquet'",
        "SELECT * FROM postgres_scan('dbname=p user=me password=hunter2 host=h', 'public', 't')",
        "SELECT * FROM odbc('Driver=x;PWD=hunter2;UID=me')",
        "SELECT * FROM azure('AccountName=a;AccountKey=hunter2==;x=y')",
        "SELECT f(password => 'hunter2')",
        "SELECT f(password := 'hunter2')",
        "SELECT f(password = 'it''s hunter2')",
        "SELECT * FROM t WHERE api_token != 'hunter2'",
        "SELECT * FROM t WHERE token IN ('a', 'hunter2')",
        "SELECT 1 AS x /* monkey's */ WHERE Client_Secret='hunter2'",
        "SELECT 'monkey' AS x, f(secret => 'hunter2')",
        "SELECT f(MAP {'password': 'hunter2'})",
        "SELECT * FROM t WHERE \"my token\" = 'hunter2'",
        "SELECT f(secret => $$hunter2$$)",
        "SELECT f(private_key => E'hunter2')",
        "SELECT f(password => 'hunter2",
    ],
)
def test_secrets_in_a_query_are_masked(query):
    masked = mask_secrets(query)

    assert "hunter2" not in masked
    assert "***" in masked
    assert masked.startswith("SELECT ")
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.key, 'plain', \"secret\" FROM a JOIN b ON a.key = b.key WHERE b.name = 'x' -- it's the key",
        "SELECT * FROM 'data/keys/*.parquet' WHERE token IS NOT NULL AND carrier = 'AA'",
        "SELECT 'what''s the password?' AS question, 'monkey' AS animal, 'x' AS other",
    ],
)
def test_a_query_without_secrets_stays_as_it_is(query):
    assert mask_secrets(query) == query


def test_every_path_that_is_refused_is_among_those_that_arrow_suspects():
    paths = ["".join(letters) for size in range(6) for letters in itertools.product("a./\\:\n", repeat=size)]

    suspected = pc.match_substring_regex(pa.array(paths), manifest_module._SUSPECT_PATH).to_pylist()

    missed = [path for path, found in zip(paths, suspected, strict=True) if not found and not is_plain_relative(path)]
    assert missed == []
