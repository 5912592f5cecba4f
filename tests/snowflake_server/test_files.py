"""The local Snowflake's stages, asked by the genuine connector: unload, LIST, REMOVE."""

import datetime
import decimal
import hashlib
import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import ProgrammingError

from tests.support.stage_files import PARQUET, fetch

pytestmark = pytest.mark.usefixtures("filled")


# --- COPY INTO a stage -----------------------------------------------------------------------------------------------


def unloaded(server, location: str) -> pa.Table:
    """What Parquet files in a stage hold, in the order of their names."""
    return pa.concat_tables(pq.read_table(io.BytesIO(file.read())) for file in server.files(location))


def test_an_unload_is_several_files_whose_rows_are_the_querys(snowflake_server, ask):
    report = ask(
        f"copy into @fs/d/ from (select i::bigint as i, s from t order by i) {PARQUET} header = true"
        " include_query_id = true max_file_size = 20000 detailed_output = true"
    )

    files = snowflake_server.files("@DB1.S1.FS/d/")
    query_id = snowflake_server.statements()[-1].query_id
    tables = {file.path: pq.read_table(io.BytesIO(file.read())) for file in files}
    rows = sorted(pa.concat_tables(tables.values()).to_pylist(), key=lambda row: row["I"])
    assert len(files) > 3
    assert all(re.fullmatch(rf"d/data_{query_id}_0_\d_\d\.snappy\.parquet", file.path) for file in files)
    assert {f"d/{name}": (size, count) for name, size, count in report} == {
        file.path: (file.size, tables[file.path].num_rows) for file in files
    }
    assert rows == [{"I": number, "S": f"row {number}"} for number in range(10_000)]
    assert all(file.size < 40_000 for file in files)


def test_rows_keep_their_order_from_file_to_file(snowflake_server, ask):
    copy = f"copy into @fs/d/ from (select i::bigint as i from t order by hash(i, 7)) {PARQUET} header = true"
    ask(f"{copy} max_file_size = 20000")

    expected = [value for (value,) in ask("select i from t order by hash(i, 7)")]
    paths = sorted(
        (file for file in snowflake_server.files("@DB1.S1.FS/d/")),
        key=lambda file: [int(number) for number in re.findall(r"_0_(\d+)_(\d+)", file.path)[0]][::-1],
    )
    found = [value for file in paths for value in pq.read_table(io.BytesIO(file.read())).column("I").to_pylist()]

    assert found == expected


def test_no_rows_are_no_files(snowflake_server, ask):
    report = ask(f"copy into @fs/d/ from (select i from t where i < 0) {PARQUET} detailed_output = true")

    assert report == []
    assert snowflake_server.files("@DB1.S1.FS") == []


def test_without_details_one_row_reports_all(ask):
    [(rows, _, output_bytes)] = ask(f"copy into @fs/d/ from t {PARQUET} max_file_size = 20000")

    assert rows == 10_000
    assert output_bytes == sum(size for _, size, *_ in ask("list @fs/d/"))


UNLOADED = [  # expression, Arrow type in the file, value
    ("1", pa.decimal128(10, 0), decimal.Decimal(1)),
    ("1::number(38, 0)", pa.decimal128(38, 0), decimal.Decimal(1)),
    ("1.25::number(10, 2)", pa.decimal128(10, 2), decimal.Decimal("1.25")),
    ("1::bigint", pa.int64(), 1),
    ("cast(1 as int)", pa.int32(), 1),
    ("1::smallint", pa.int32(), 1),
    ("1::tinyint", pa.int8(), 1),
    ("sqrt(2)", pa.float64(), 2**0.5),
    ("sqrt(2)::double", pa.float64(), 2**0.5),
    ("0.5::float", pa.float32(), 0.5),
    ("'x'", pa.string(), "x"),
    ("true", pa.bool_(), True),
    ("'ab'::binary", pa.binary(), b"ab"),
    ("'2020-02-29'::date", pa.date32(), datetime.date(2020, 2, 29)),
    ("'01:02:03'::time", pa.time32("ms"), datetime.time(1, 2, 3)),
    (
        "'2020-01-01 00:00:00.123456'::timestamp_ntz",
        pa.timestamp("ms"),
        datetime.datetime(2020, 1, 1, 0, 0, 0, 123_000),
    ),
    ("parse_json('{\"a\":1}')", pa.string(), '{"a":1}'),
    ("array_construct(1, 'b')::array", pa.list_(pa.string()), ["1", '"b"']),
    ("[1.5, 2.5]::array(float not null)", pa.list_(pa.float64()), [1.5, 2.5]),
    ("to_array([1.5, 2]::vector(float, 2))", pa.list_(pa.string()), ["1.5", "2.0"]),
    ("null::bigint", pa.int64(), None),
]


def test_the_outermost_cast_chooses_the_type_in_the_file(snowflake_server, ask):
    items = ", ".join(f"{expression} as c{number}" for number, (expression, *_) in enumerate(UNLOADED))

    ask(f"copy into @fs/d/ from (select {items}) {PARQUET} header = true")

    table = unloaded(snowflake_server, "@DB1.S1.FS/d/")
    types = [field.type for field in table.schema]
    assert [str(type_).replace("element", "item") for type_ in types] == [
        str(type_).replace("element", "item") for _, type_, _ in UNLOADED
    ]
    assert list(table.to_pylist()[0].values()) == [value for *_, value in UNLOADED]


def test_an_inner_cast_to_float_keeps_eight_bytes(snowflake_server, ask):
    ask(f"copy into @fs/d/ from (select x from (select x::float as x from t)) {PARQUET} header = true")

    assert unloaded(snowflake_server, "@DB1.S1.FS/d/").schema.field("X").type == pa.float64()


def test_the_unit_of_timestamps_can_be_chosen(snowflake_server, ask):
    snowflake_server.configure(timestamp_unit="us")

    ask(f"copy into @fs/d/ from (select '2020-01-01'::timestamp_ntz as t) {PARQUET} header = true")

    assert unloaded(snowflake_server, "@DB1.S1.FS/d/").schema.field("T").type == pa.timestamp("us")


def test_without_a_header_columns_lose_their_names(snowflake_server, ask):
    ask(f"copy into @fs/d/ from t {PARQUET}")

    assert unloaded(snowflake_server, "@DB1.S1.FS/d/").column_names == ["_COL_0", "_COL_1", "_COL_2"]


@pytest.mark.parametrize(
    ("query", "errno"),
    [
        ("select current_timestamp()::timestamp_ltz as t", 100113),
        ("select current_timestamp()::timestamp_tz as t", 100113),
        ("select [1, 2]::vector(float, 2) as v", 100113),
        ("select 1000::tinyint as i", 100039),
        ("select * from nowhere", 2003),
    ],
)
def test_what_cannot_be_unloaded_is_refused_and_leaves_no_file(snowflake_server, ask, query, errno):
    with pytest.raises(ProgrammingError) as caught:
        ask(f"copy into @fs/d/ from ({query}) {PARQUET}")

    assert caught.value.errno == errno
    assert snowflake_server.files("@DB1.S1.FS") == []


@pytest.mark.parametrize("statement", ["{}", f"copy into @fs/d/ from ({{}}) {PARQUET}"], ids=["select", "copy"])
def test_a_late_row_can_fail_a_statement(ask, statement):
    ask("create table late as select iff(seq4() = 290000, 'x', '1') as s from table(generator(rowcount => 300000))")

    with pytest.raises(ProgrammingError) as caught:
        ask(statement.format("select s::int as i from late"))

    assert caught.value.errno == 100038


@pytest.mark.parametrize(
    ("options", "errno"),
    [
        ("include_query_id = true overwrite = true", 1008),
        ("header = yes", 1008),
        ("headr = true", 1003),
        ("header = true header = true", 1003),
    ],
)
def test_options_are_checked(ask, options, errno):
    with pytest.raises(ProgrammingError) as caught:
        ask(f"copy into @fs/d/ from t {PARQUET} {options}")

    assert caught.value.errno == errno


def test_an_unload_to_where_files_are_is_refused_unless_its_names_are_new(snowflake_server, ask):
    ask(f"copy into @fs/d/ from t {PARQUET}")

    with pytest.raises(ProgrammingError) as caught:
        ask(f"copy into @fs/d/ from t {PARQUET}")
    ask(f"copy into @fs/d/ from t {PARQUET} include_query_id = true")
    ask(f"copy into @fs/d/ from t {PARQUET} overwrite = true")

    assert caught.value.errno == 1030
    assert len(snowflake_server.files("@DB1.S1.FS/d/")) == 2


# --- LIST and REMOVE -------------------------------------------------------------------------------------------------


def test_list_takes_a_prefix_and_a_pattern(snowflake_server, ask):
    for path in ("a/1.bin", "a/2.txt", "ab/3.bin", "A/4.bin", "a/b/5.bin"):
        snowflake_server.put(f"@DB1.S1.FS/{path}", path.encode())

    def names(statement: str) -> list[str]:
        return [row[0] for row in ask(statement)]

    assert names("list @fs/a") == ["fs/a/1.bin", "fs/a/2.txt", "fs/a/b/5.bin", "fs/ab/3.bin"]
    assert names("list @fs/a/") == ["fs/a/1.bin", "fs/a/2.txt", "fs/a/b/5.bin"]
    assert names("ls '@db1.s1.fs/a/' pattern = '.*[.]bin'") == ["fs/a/1.bin", "fs/a/b/5.bin"]
    assert names("list @fs/none") == []


def test_list_tells_size_and_md5(snowflake_server, ask):
    snowflake_server.put("@DB1.S1.FS/x", b"abc")

    [(name, size, md5, modified)] = ask("list @fs")

    assert (name, size, md5) == ("fs/x", 3, hashlib.md5(b"abc").hexdigest())
    assert re.fullmatch(r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT", modified)


@pytest.mark.parametrize(
    ("digests", "form"), [("content", "[0-9a-f]{32}"), ("multipart", "[0-9a-f]{32}-2"), ("opaque", "[0-9a-f]{32}")]
)
def test_a_digest_is_what_the_cloud_makes_of_it(snowflake_server, ask, digests, form):
    snowflake_server.configure(digests=digests)
    snowflake_server.put("@DB1.S1.FS/x", b"abc")

    [(_, _, md5, _)] = ask("list @fs")
    [[url]] = ask("select get_presigned_url(@fs, 'x')")

    assert re.fullmatch(form, md5)
    assert (md5 == hashlib.md5(b"abc").hexdigest()) == (digests == "content")
    assert fetch(url).headers["ETag"] == f'"{md5}"'


def test_a_cloud_may_give_no_digest(snowflake_server, ask):
    snowflake_server.configure(digests="none")
    snowflake_server.put("@DB1.S1.FS/x", b"abc")

    [(_, _, md5, _)] = ask("list @fs")
    [[url]] = ask("select get_presigned_url(@fs, 'x')")

    assert md5 is None
    assert fetch(url).headers["ETag"] is None


def test_a_list_of_more_files_than_fit_into_an_answer_is_whole(snowflake_server, ask):
    snowflake_server.configure(rows_inline=20, rows_per_chunk=30)
    for number in range(75):
        snowflake_server.put(f"@DB1.S1.FS/{number:03d}", b"x")

    assert [row[0] for row in ask("list @fs")] == [f"fs/{number:03d}" for number in range(75)]


def test_paths_are_keys_not_directories(snowflake_server, ask, tmp_path):
    for path in ("a/../b", "a//b", "a b/ü%'\"\n", "../../etc/passwd"):
        snowflake_server.put(f"@DB1.S1.FS/{path}", path.encode())

    assert [row[0] for row in ask("list '@fs/a/../'")] == ["fs/a/../b"]
    assert [row[0] for row in ask("list '@fs/a b'")] == ["fs/a b/ü%'\"\n"]
    assert len(ask("list @fs")) == 4


def test_remove_removes_what_list_would_list(snowflake_server, ask):
    for path in ("a/1", "a/2", "b/1"):
        snowflake_server.put(f"@DB1.S1.FS/{path}", b"x")

    assert ask("remove @fs/a/ pattern = '.*1'") == [("fs/a/1", "removed")]
    assert ask("rm @fs/nothing") == []
    assert [file.path for file in snowflake_server.files("@DB1.S1.FS")] == ["a/2", "b/1"]
