"""The embedded engine: one SELECT in, Parquet files out, in the query's order and without losing a digit."""

import datetime
import hashlib
import threading
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fileset_integrations import FileSet
from fileset_integrations.engines import duckdb as engine
from fileset_integrations.engines.writer import ROW_GROUP_ROWS, write_files
from fileset_integrations.errors import ColumnError, QueryError
from fileset_integrations.plan import BLOCK_ROWS

ROWS = 60_000
# Ragged strings, nulls, and rows that grow a hundredfold on the way: what could make the cut into files waver.
TABLE = f"""
    CREATE TABLE t AS SELECT
        i AS id,
        CASE WHEN i % 7 = 0 THEN NULL ELSE 's' || hash(i) % 1000 END AS s,
        CASE WHEN i BETWEEN 30000 AND 33000 THEN repeat('x', 900) ELSE 'a' END AS big,
        sin(i) AS f
    FROM range({ROWS}) r(i)
"""


def make(location, query, name="made", **options) -> FileSet:
    return FileSet.make(target_stage_loc=location, name=name, query=query, **options)


def connect(threads=None) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={} if threads is None else {"threads": threads})
    connection.execute(TABLE)
    return connection


def digests(fs: FileSet) -> list[tuple[int, str]]:
    return [(file["rows"], file["sha256"]) for file in fs.manifest.files.to_pylist()]


# --- the same files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("FROM t WHERE hash(id) % 3 <> 0", {"shuffle": True, "shuffle_key": "id"}),
        ("SELECT id, s, f FROM t ORDER BY f", {}),
        ("FROM t WHERE hash(id) % 3 <> 0 ORDER BY id", {}),
        ("FROM t WHERE hash(id) % 3 <> 0", {}),
        ("FROM t WHERE hash(id) % 3 <> 0 ORDER BY f", {"shuffle": True, "seed": 5}),
        ("SELECT hash(id) % 9000 AS g, sum(id) AS total FROM t GROUP BY g ORDER BY g", {}),
        ("SELECT a.id, b.s FROM t a JOIN t b ON a.id = b.id + 1", {"shuffle": True, "shuffle_key": ["id"]}),
    ],
    ids=["key", "ordered", "filtered and ordered", "filtered", "shuffled by row number", "sums", "join by key"],
)
def test_files_are_the_same_for_any_number_of_threads(tmp_path, query, options):
    made = [
        make(tmp_path, query, f"threads_{place}", duckdb_connection=connect(threads), max_file_bytes=60_000, **options)
        for place, threads in enumerate((1, 2, 4, 4))
    ]

    assert all(digests(fs) == digests(made[0]) for fs in made)
    assert len(made[0].files()) > 1


def test_with_a_shuffle_key_files_do_not_depend_on_the_order_in_which_the_query_returns_rows(tmp_path):
    options = {"shuffle": True, "shuffle_key": "id", "duckdb_connection": connect(), "max_file_bytes": 60_000}

    one = make(tmp_path, "FROM t ORDER BY id", "one", **options)
    other = make(tmp_path, "FROM t ORDER BY f DESC", "other", **options)
    reseeded = make(tmp_path, "FROM t ORDER BY id", "reseeded", **{**options, "seed": 1})

    assert digests(one) == digests(other)
    assert one.manifest.reproducible
    assert digests(one) != digests(reseeded)
    assert sorted(one.to_arrow(["id"])["id"].to_pylist()) == list(range(ROWS))


@pytest.mark.parametrize("options", [{"shuffle_key": "id"}, {}])
def test_a_global_shuffle_moves_every_row_anywhere(tmp_path, options):
    ids = make(tmp_path, "FROM t", shuffle=True, duckdb_connection=connect(), **options).to_arrow()["id"].to_numpy()

    # The mean of a tenth of the rows strays from that of all by less than 5 standard errors.
    for part in range(10):
        tenth = ids[part * ROWS // 10 : (part + 1) * ROWS // 10]
        assert abs(tenth.mean() - ROWS / 2) < 5 * ROWS / 12**0.5 / len(tenth) ** 0.5


def test_rows_that_are_equal_do_not_clump(tmp_path):
    fs = make(tmp_path, "SELECT i % 2 AS x FROM range(4000) r(i)", shuffle=True)
    values = fs.to_arrow()["x"].to_numpy()

    changes = (values[1:] != values[:-1]).sum()

    assert 1800 < changes < 2200


def test_a_shuffle_key_that_is_not_unique_is_refused(tmp_path):
    with pytest.raises(ColumnError, match=r"\['s'\] is not unique: 60000 rows have 1001 distinct"):
        make(tmp_path, "FROM t", shuffle=True, shuffle_key="s", duckdb_connection=connect())

    assert not (tmp_path / "made").exists()


def test_one_null_in_a_shuffle_key_is_a_value_like_others(tmp_path):
    query = "FROM (VALUES (1, 1), (2, NULL), (NULL, NULL)) v(a, b)"

    assert make(tmp_path, query, "single", shuffle=True, shuffle_key="a").num_rows == 3
    assert make(tmp_path, query, "pair", shuffle=True, shuffle_key=["a", "b"]).num_rows == 3
    with pytest.raises(ColumnError, match="not unique"):
        make(tmp_path, query, "twice", shuffle=True, shuffle_key="b")


def test_a_shuffle_key_that_the_query_does_not_return_is_refused_with_the_columns_that_it_does(tmp_path):
    with pytest.raises(ColumnError, match=r"'nowhere'.*Its columns: id, s, big, f"):
        make(tmp_path, "FROM t", shuffle=True, shuffle_key=["id", "nowhere"], duckdb_connection=connect())


def test_order_by_is_kept(tmp_path):
    fs = make(tmp_path, "FROM t ORDER BY f DESC, id", duckdb_connection=connect(4), max_file_bytes=60_000)
    expected = connect().sql("SELECT id FROM t ORDER BY f DESC, id").fetchnumpy()["id"]

    assert fs.to_arrow(["id"])["id"].to_pylist() == expected.tolist()


# --- types -----------------------------------------------------------------------------------------------------------


def test_sums_of_integers_keep_every_digit_and_the_order(tmp_path):
    query = "SELECT i AS g, sum(9007199254740993 + i) AS total FROM range(5000) r(i) GROUP BY g ORDER BY total DESC"

    table = make(tmp_path, query).to_arrow()

    assert table["total"].to_pylist() == [Decimal(2**53 + 1 + i) for i in reversed(range(5000))]


WIDE = {  # expression -> what comes back
    "170141183460469231731::HUGEINT": Decimal(170141183460469231731),
    "-99999999999999999999999999999999999999::HUGEINT": Decimal(1 - 10**38),
    "18446744073709551615::UBIGINT": 2**64 - 1,
    "18446744073709551616::UHUGEINT": Decimal(2**64),
    "123456789012345678901234567890.12345678::DECIMAL(38, 8)": Decimal("123456789012345678901234567890.12345678"),
    "INTERVAL 3 MONTH": "3 months",
    "'101'::BIT": "101",
    "TIMESTAMP '2013-01-01 00:00:00.123456'": datetime.datetime(2013, 1, 1, 0, 0, 0, 123456),
    "DATE '2013-01-01'": datetime.date(2013, 1, 1),
    "'a'::ENUM ('b', 'a')": "a",
    "'\\x00\\xFF'::BLOB": b"\x00\xff",
    "true": True,
    "[1, NULL, 3]": [1, None, 3],
    "[[1::HUGEINT << 70], NULL]": [[Decimal(2**70)], None],
    "array_value(1.5::FLOAT, 2.5)": [1.5, 2.5],
    "array_value(1::HUGEINT, 2)": [Decimal(1), Decimal(2)],
    "{'a': 1, 'b c': {'d': 18446744073709551616::HUGEINT}}": {"a": 1, "b c": {"d": Decimal(2**64)}},
    "MAP {'k': 1::HUGEINT}": [("k", Decimal(1))],
    "NULL::HUGEINT": None,
    "''": "",
}


def test_wide_and_nested_types_come_back_as_they_were(tmp_path):
    columns = ", ".join(f"{expression} AS c{place}" for place, expression in enumerate(WIDE))

    fs = make(tmp_path, f"SELECT {columns} UNION ALL SELECT {columns}")
    rows = fs.to_arrow().to_pylist()

    assert rows[0] == rows[1]
    assert dict(zip(WIDE, rows[0].values(), strict=True)) == WIDE
    fs.verify()


def test_an_integer_beyond_38_digits_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(QueryError, match=r"(?i)conver|cast"):
        make(tmp_path, "SELECT 170141183460469231731687303715884105727::HUGEINT AS x FROM range(3)")

    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


# --- which queries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT 1 AS x", [{"x": 1}]),
        ("  SELECT 'ä;ö' AS x; -- the end; really", [{"x": "ä;ö"}]),
        ("SELECT 1 AS x -- no new line", [{"x": 1}]),
        ("/* first; */ WITH a AS (SELECT 2 AS x) SELECT * FROM a;;", [{"x": 2}]),
        ("FROM range(2) r(x)", [{"x": 0}, {"x": 1}]),
        ("VALUES (1)", [{"col0": 1}]),
        ('SELECT 3 AS "row_number", 4 AS "a ""b"""', [{"row_number": 3, 'a "b"': 4}]),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_form_of_one_select_is_accepted(tmp_path, query, rows, shuffle):
    found = make(tmp_path, query, shuffle=shuffle).to_arrow().to_pylist()

    assert sorted(map(str, found)) == sorted(map(str, rows))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        (None, "empty"),
        ("-- nothing", "no statement"),
        (";", "no statement"),
        ("SELECT 1; SELECT 2", "2 statements.*exactly one SELECT"),
        ("CREATE TABLE x AS SELECT 1", "CREATE statement.*exactly one SELECT"),
        ("INSERT INTO t SELECT * FROM t", "INSERT statement"),
        ("DELETE FROM t RETURNING id", "DELETE statement"),
        ("COPY t TO 'out.csv'", "COPY statement"),
        ("DROP TABLE t", "DROP statement"),
        ("PRAGMA version", "PRAGMA statement"),
        ("EXPLAIN SELECT 1", "EXPLAIN statement"),
        ("SELEC 1", "does not parse"),
        ("SELECT ?", "parameters"),
        ("SELECT $a", r"parameters \(\$a\)"),
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("SELECT nocolumn FROM t", "nocolumn"),
        ("SELECT 1 AS a, 2 AS A", "two columns named 'A'.*alias"),
    ],
)
def test_whatever_is_not_exactly_one_select_is_refused_before_it_runs(tmp_path, query, message):
    connection = connect()

    with pytest.raises(QueryError, match=message):
        make(tmp_path, query, duckdb_connection=connection)

    assert not list(tmp_path.iterdir())
    assert connection.sql("SELECT count(*) FROM t").fetchall() == [(ROWS,)]


@pytest.mark.parametrize("query", ["SELECT x::INTEGER FROM v", "SELECT error(x) FROM v", "SELECT id::TINYINT FROM t"])
def test_a_query_that_fails_while_it_runs_leaves_nothing_and_shows_no_value_of_a_row(tmp_path, query):
    connection = connect()
    connection.execute("CREATE VIEW v AS SELECT CASE WHEN id > 50000 THEN 'hunter' || id ELSE '1' END AS x FROM t")

    with pytest.raises(QueryError, match="could not run") as raised:
        make(tmp_path, query.replace("error(x)", "CAST(x AS DATE)"), duckdb_connection=connection)

    assert "hunter" not in str(raised.value)
    assert "128" not in str(raised.value)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_python_variables_are_no_tables(tmp_path):
    frame = pa.table({"x": [1]})

    with pytest.raises(QueryError, match="frame does not exist"):
        make(tmp_path, "SELECT * FROM frame")

    assert frame.num_rows == 1


def test_the_connection_itself_is_used_with_its_temporary_tables_and_left_open(tmp_path):
    connection = duckdb.connect()
    connection.execute("BEGIN; CREATE TEMP TABLE mine AS SELECT 5 AS x; CREATE VIEW seen AS FROM mine")

    assert make(tmp_path, "FROM seen", duckdb_connection=connection).to_arrow().to_pylist() == [{"x": 5}]
    assert connection.sql("FROM mine").fetchall() == [(5,)]


# --- files -----------------------------------------------------------------------------------------------------------


def write(folder, tables, max_file_bytes):
    folder.mkdir()
    stream = pa.RecordBatchReader.from_batches(tables[0].schema, [b for t in tables for b in t.to_batches()])
    return write_files(stream, folder, max_file_bytes)


def test_files_but_the_last_have_equally_many_rows_near_the_size_asked_for(tmp_path):
    fs = make(tmp_path, "SELECT id, f FROM t", duckdb_connection=connect(), max_file_bytes=100_000)
    rows, sizes = fs.manifest.file_rows.tolist(), fs.manifest.files["bytes"].to_pylist()

    assert len(set(rows[:-1])) == 1
    assert 0 < rows[-1] <= rows[0]
    assert all(50_000 < size < 200_000 for size in sizes[:-1])


def test_the_manifest_says_what_the_files_are(tmp_path):
    fs = make(tmp_path, "SELECT id, s FROM t", duckdb_connection=connect(), max_file_bytes=100_000)

    for path, file in zip(fs.files(), fs.manifest.files.to_pylist(), strict=True):
        data = Path(path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
        assert pq.read_metadata(path).num_rows == file["rows"]
    assert fs.manifest.null_counts == {"id": 0, "s": -(-ROWS // 7)}
    assert fs.schema == pa.schema([("id", pa.int64()), ("s", pa.string())])


def test_a_full_file_is_one_block_in_row_groups_of_a_set_size(tmp_path):
    table = pa.table({"x": pa.array(range(BLOCK_ROWS + 10), pa.int32())})

    _, files = write(tmp_path / "w", [table], 2**40)

    assert [file.rows for file in files] == [BLOCK_ROWS, 10]
    assert files[0].row_groups == (ROW_GROUP_ROWS,) * 8


def test_how_the_stream_is_cut_into_batches_changes_nothing(tmp_path):
    texts = ["ab" * (2000 if 9000 < row < 12000 else row % 5) if row % 3 else None for row in range(20_000)]
    table = pa.table({"x": range(20_000), "s": texts})
    pieces = [table.slice(start, 777) for start in range(0, 20_000, 777)]
    pieces = [pa.Table.from_batches([piece.combine_chunks().to_batches()[0]]) for piece in pieces]

    found = [write(tmp_path / str(n), tables, 120_000) for n, tables in enumerate(([table], pieces))]

    assert found[0] == found[1]
    assert len({file.rows for file in found[0][1][:-1]}) > 1  # the large rows closed a file early


def test_zero_rows_make_one_file_that_keeps_the_schema(tmp_path):
    fs = make(tmp_path, "SELECT 1::HUGEINT AS x, 'a' AS s WHERE false")

    assert (fs.num_rows, len(fs.files())) == (0, 1)
    assert fs.to_arrow().schema == pa.schema([("x", pa.decimal128(38, 0)), ("s", pa.string())])
    fs.verify()


def test_how_far_a_query_is_can_be_told_and_the_connection_is_left_as_it_was():
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    names = ("enable_progress_bar", "enable_progress_bar_print")
    settings = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
    before = connection.sql(settings).fetchall()
    seen = set()
    ended = threading.Event()

    def look(share):
        while not ended.wait(0.01):
            seen.add(share())

    with engine.share_done(connection) as share:
        thread = threading.Thread(target=look, args=(share,))
        thread.start()
        connection.sql("SELECT max(h) FROM (SELECT i, hash(i) AS h FROM range(5000000) t(i) ORDER BY h)").fetchall()
        ended.set()
        thread.join()

    shares = [one for one in seen if one is not None]
    assert len(shares) > 1 and all(0 <= one <= 1 for one in shares)
    assert connection.sql(settings).fetchall() == before
