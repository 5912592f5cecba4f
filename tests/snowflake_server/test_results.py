"""The local Snowflake, asked by the genuine connector: what queries return, at once and later."""

import datetime
import decimal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow as pa
import pytest
from snowflake.connector.errors import ProgrammingError

# --- results ---------------------------------------------------------------------------------------------------------

UTC = datetime.UTC
TYPES = [  # declared, expression, value, type code of the description
    ("number(38, 0)", "12345678901234567890123456789012345678", 12345678901234567890123456789012345678, 0),
    ("number(10, 2)", "2.25", decimal.Decimal("2.25"), 0),
    ("int", "-3", -3, 0),
    ("float", "0.1", 0.1, 1),
    ("double", "1e300", 1e300, 1),
    ("varchar(10)", "'it''s \\\\ ü'", "it's \\ ü", 2),
    ("boolean", "true", True, 13),
    ("binary", "'ab'::binary", b"ab", 11),
    ("date", "'2020-02-29'", datetime.date(2020, 2, 29), 3),
    ("time", "'01:02:03.5'", datetime.time(1, 2, 3, 500_000), 12),
    ("timestamp_ntz", "'1969-12-31 23:59:59.999999'", datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999), 8),
    ("timestamp_ntz(3)", "'2020-01-01 00:00:00.123'", datetime.datetime(2020, 1, 1, 0, 0, 0, 123_000), 8),
    ("timestamp_ltz", "'2020-01-01 00:00:00'", datetime.datetime(2020, 1, 1, tzinfo=UTC), 6),
    ("timestamp_tz", "'2020-01-01 02:00:00+02:00'", datetime.datetime(2020, 1, 1, tzinfo=UTC), 7),
    ("variant", "parse_json('{\"a\":[1]}')", '{"a":[1]}', 5),
    ("object", "object_construct('a', 1)", '{"a":1}', 9),
    ("array", "array_construct(1, 'b')", '[1,"b"]', 10),
    ("array(float not null)", "[1.5, 2.5]", "[1.5,2.5]", 10),
    ("vector(float, 3)", "[1, 2, 3.5]", [1.0, 2.0, 3.5], 16),
    ("vector(int, 2)", "[1, 2]", [1, 2], 16),
]


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_every_type_keeps_its_values_and_its_description(snowflake_server, kept_snowflake_connection, form):
    snowflake_server.configure(results=form)
    cursor = kept_snowflake_connection.cursor()
    columns = [f"c{number} {declared}" for number, (declared, *_) in enumerate(TYPES)]
    cursor.execute(f"create table t ({', '.join(columns)})")
    cursor.execute(f"insert into t select {', '.join(expression for _, expression, *_ in TYPES)}")
    cursor.execute("insert into t (c0) values (null)")

    values, nulls = cursor.execute("select * from t").fetchall()
    codes = [column.type_code for column in cursor.describe("select * from t")]

    assert list(values) == [value for *_, value, _ in TYPES]
    assert set(nulls) == {None}
    assert codes == [code for *_, code in TYPES]


def test_nanoseconds_survive(snowflake_server, kept_snowflake_connection):
    cursor = kept_snowflake_connection.cursor()

    table = cursor.execute("select '2020-01-01 00:00:00.123456789'::timestamp_ntz as t").fetch_arrow_all()

    assert table.column("T").cast(pa.int64()).to_pylist() == [1_577_836_800_123_456_789]


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_many_rows_come_in_chunks_and_all_of_them(snowflake_server, ask, form):
    snowflake_server.configure(rows_inline=10, rows_per_chunk=300, results=form)

    rows = ask("select seq4() as i, 'row ' || i from table(generator(rowcount => 1000))")

    assert rows == [(number, f"row {number}") for number in range(1000)]
    assert sum(seen["path"].startswith("/results/") for seen in snowflake_server.requests()) == 4


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_no_rows_have_columns_all_the_same(snowflake_server, kept_snowflake_connection, form):
    snowflake_server.configure(results=form)

    cursor = kept_snowflake_connection.cursor().execute("select 1 as a, 'x' as b where false")

    assert cursor.fetchall() == []
    assert [column.name for column in cursor.description] == ["A", "B"]


def test_bound_values_arrive(ask):
    assert ask("select %s, %s, %s", (1, "it's", None)) == [(1, "it's", None)]


def test_question_marks_are_bound_by_the_server(snowflake_server):
    with closing(snowflake_server.connect(paramstyle="qmark")) as connection:
        rows = connection.cursor().execute("select ? + 1, ?, ?", (1, "it's", True)).fetchall()

    assert rows == [(2, "it's", True)]


def test_the_queries_that_a_fileset_needs(ask):
    ask("create table t as select seq4() as i, i % 3 as g from table(generator(rowcount => 10))")

    assert ask("select count(*), count(distinct g), sum(i) from t") == [(10, 3, 45)]
    assert ask("with q as (select i from t where i > 7) select * from q order by i desc") == [(9,), (8,)]
    assert len({*ask("select hash(i, 7) from t")}) == 10
    assert ask("select hash(1, 7)") != ask("select hash(1, 8)")
    assert {value for (value,) in ask("select uniform(1, 3, random(4)) from t")} <= {1, 2, 3}
    ranked = "select i from t qualify row_number() over (partition by g order by i) = 2 order by i"
    assert ask(ranked) == [(3,), (4,), (5,)]
    assert ask("select column1, column2 from values (1, 'a'), (2, 'b')") == [(1, "a"), (2, "b")]
    assert ask("select iff(true, 1, 2), nvl(null, 3), try_cast('x' as int)") == [(1, 3, None)]
    assert ask("select date_part(epoch_nanosecond, '1970-01-01 00:00:01'::timestamp_ntz)") == [(1_000_000_000,)]
    assert ask("select convert_timezone('UTC', '2020-01-01 02:00:00+02:00'::timestamp_tz)::timestamp_ntz") == [
        (datetime.datetime(2020, 1, 1),)
    ]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("date_from_parts(2013, 2, 3)", datetime.date(2013, 2, 3)),
        ("dayofweek(date_from_parts(2013, 2, 3))", 0),
        ("dateadd(minute, 90, timestamp_ntz_from_parts(2013, 2, 3, 4, 5, 6))", datetime.datetime(2013, 2, 3, 5, 35, 6)),
        ("datediff(minute, '2013-02-03 00:00'::timestamp_ntz, '2013-02-03 01:30'::timestamp_ntz)", 90),
        (
            "convert_timezone('America/New_York', 'UTC', '2013-07-01 12:00:00'::timestamp_ntz)",
            datetime.datetime(2013, 7, 1, 16),
        ),
        ("date_part(hour, '2013-07-01 12:00:00'::timestamp_ntz)", 12),
        ("date_trunc('month', '2013-07-05'::timestamp_ntz)", datetime.datetime(2013, 7, 1)),
        ("div0(1, 0) + square(3) + nvl2(null, 1, 2)", 11),
        ("regexp_like('N123', 'N[0-9]+')", True),
        ("equal_null(null, null) and startswith('abc', 'a')", True),
        ("try_to_number('x')", None),
        ("to_binary('00FF', 'HEX')", b"\x00\xff"),
        ("to_binary('00ff')", b"\x00\xff"),
        ("to_binary('é', 'utf-8')", "é".encode()),
        ("to_binary('AP8=', 'base64')", b"\x00\xff"),
    ],
)
def test_functions_of_snowflakes_own(ask, expression, value):
    assert ask(f"select {expression}") == [(value,)]


def test_statements_of_many_threads_run_side_by_side(snowflake_server, kept_snowflake_connection):
    def square(number: int) -> int:
        with kept_snowflake_connection.cursor() as cursor:
            return cursor.execute(f"select {number} * {number}").fetchone()[0]

    with ThreadPoolExecutor(8) as pool:
        squares = list(pool.map(square, range(40)))

    assert squares == [number * number for number in range(40)]


def test_nulls_sort_as_the_largest(ask):
    ask("create table t as select column1 as i from values (1), (null), (2)")

    assert ask("select i from t order by i") == [(1,), (2,), (None,)]
    assert ask("select i from t order by i desc") == [(None,), (2,), (1,)]


def test_a_table_is_loaded_from_arrow(snowflake_server, ask):
    snowflake_server.load("DB1.S1.FLIGHTS", pa.table({"CARRIER": ["AA", None], "DELAY": pa.array([1.5, 2.5])}))

    assert ask("select * from flights order by delay") == [("AA", 1.5), (None, 2.5)]


# --- in the background -----------------------------------------------------------------------------------------------


def test_a_query_runs_in_the_background(snowflake_server, kept_snowflake_connection):
    snowflake_server.fault("latency", statement="select 42", delay=0.1)
    cursor = kept_snowflake_connection.cursor()

    query_id = cursor.execute_async("select 42")["queryId"]
    running = kept_snowflake_connection.is_still_running(kept_snowflake_connection.get_query_status(query_id))
    cursor.get_results_from_sfqid(query_id)

    assert running
    assert cursor.fetchall() == [(42,)]
    assert snowflake_server.statements()[0].asynchronous


def test_a_failure_in_the_background_is_told_when_asked(snowflake_server, kept_snowflake_connection):
    cursor = kept_snowflake_connection.cursor()

    query_id = cursor.execute_async("select * from nowhere")["queryId"]

    with pytest.raises(ProgrammingError) as caught:
        while kept_snowflake_connection.is_still_running(
            kept_snowflake_connection.get_query_status_throw_if_error(query_id)
        ):
            time.sleep(0.01)
    assert caught.value.errno == 2003


def test_a_query_is_cancelled(snowflake_server, kept_snowflake_connection):
    snowflake_server.fault("latency", statement="select 42", delay=30)
    cursor = kept_snowflake_connection.cursor()
    query_id = cursor.execute_async("select 42")["queryId"]

    cursor.abort_query(query_id)

    assert snowflake_server.statements()[0].errno == 604
