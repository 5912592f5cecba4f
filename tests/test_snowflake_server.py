"""The local Snowflake, asked by the genuine connector: sessions, statements, results, and its own process."""

import datetime
import decimal
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
import snowflake.connector
from snowflake.connector import DictCursor
from snowflake.connector.errors import DatabaseError, ProgrammingError

from tests.support import ROOT
from tests.support.snowflake_server import ACCESS_TOKEN, MARK, PASSWORD, USER


@pytest.fixture
def ask(snowflake_server, kept_snowflake_connection):
    """Run one statement; returns all rows."""
    with kept_snowflake_connection.cursor() as cursor:
        yield lambda sql, *arguments: cursor.execute(sql, *arguments).fetchall()


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_login_stands_in_its_database_and_schema(snowflake_server):
    snowflake_server.create("Other DB", "s.x")

    where = {"database": '"Other DB"', "schema": '"s.x"', "role": "r", "warehouse": "w"}
    with closing(snowflake_server.connect(**where)) as connection:
        rows = connection.cursor().execute(
            "select current_database(), current_schema(), current_role(), current_warehouse(), current_user()"
        )

        assert rows.fetchall() == [("Other DB", "s.x", "R", "W", USER)]


def test_a_wrong_password_is_refused(snowflake_server):
    with pytest.raises(DatabaseError) as caught:
        snowflake_server.connect(password="wrong")

    assert caught.value.errno == 390100


def test_an_access_token_logs_in(snowflake_server):
    token = {"authenticator": "programmatic_access_token", "token": ACCESS_TOKEN, "password": None}

    with closing(snowflake_server.connect(**token)) as connection:
        assert connection.cursor().execute("select 1").fetchone() == (1,)


def test_a_profile_in_connections_toml_logs_in(snowflake_server, tmp_path):
    path = snowflake_server.write_profile(tmp_path, "dev")

    options = {"connections_file_path": path, "enable_server_session_keep_alive_auto_detection": False}
    with closing(snowflake.connector.connect(connection_name="dev", **options)) as connection:
        assert connection.cursor().execute("select current_schema()").fetchone() == ("S1",)


def test_closing_a_connection_ends_its_session(snowflake_server):
    before = snowflake_server.open_sessions()

    with closing(snowflake_server.connect()):
        during = snowflake_server.open_sessions()

    assert (during, snowflake_server.open_sessions()) == (before + 1, before)


def test_an_expired_session_is_renewed_with_its_master_token(snowflake_server, ask):
    ask("select 1")

    snowflake_server.advance(3_700)

    assert ask("select 2") == [(2,)]
    assert sum(seen["path"] == "/session/token-request" for seen in snowflake_server.requests()) == 1


def test_with_its_master_token_expired_a_session_is_over(snowflake_server):
    with closing(snowflake_server.connect()) as connection:
        snowflake_server.advance(15_000)

        with pytest.raises(DatabaseError) as caught:
            connection.cursor().execute("select 1")

    assert caught.value.errno == 390114


def test_every_secret_holds_the_mark(snowflake_server, ask):
    ask("create stage fs encryption = (type = 'SNOWFLAKE_SSE')")

    [[url]] = ask("select get_presigned_url(@fs, 'x', 60)")

    assert MARK in PASSWORD
    assert MARK in ACCESS_TOKEN
    assert MARK in url


# --- statements ------------------------------------------------------------------------------------------------------


def test_the_log_holds_each_statement_exactly_with_its_tag_and_id(snowflake_server, kept_snowflake_connection):
    cursor = kept_snowflake_connection.cursor()
    texts = ["select 1", "SELECT 'ü', /* why */  2 -- so\n, 3", "select 'x;y'"]
    tags = ["first", "second", None]
    ids = [
        cursor.execute(text, _statement_params={"QUERY_TAG": tag} if tag else None).sfqid
        for text, tag in zip(texts, tags, strict=True)
    ]

    seen = snowflake_server.statements()

    assert [statement.sql for statement in seen] == texts
    assert [statement.query_id for statement in seen] == ids
    assert [statement.tag for statement in seen] == tags
    assert {statement.status for statement in seen} == {"SUCCESS"}


def test_a_tag_of_the_session_marks_its_statements(snowflake_server):
    parameters = {"QUERY_TAG": "of the login"}
    with closing(snowflake_server.connect(session_parameters=parameters)) as connection:
        cursor = connection.cursor()
        cursor.execute("select 1")
        cursor.execute("alter session set query_tag = 'set later'")
        cursor.execute("select 2")

    assert [statement.tag for statement in snowflake_server.statements()][::2] == ["of the login", "set later"]


@pytest.mark.parametrize(
    ("sql", "errno", "sqlstate"),
    [
        ("selec 1", 1003, "42000"),
        ("select 1 +", 1003, "42000"),
        ("select 'open", 1003, "42000"),
        ("select 1; drop table t", 8, "0A000"),
        ("select * from nowhere", 2003, "42S02"),
        ("select x from (select 1 as y)", 904, "42000"),
        ("select nothing_like_it(1)", 2140, "42601"),
        ("select 'a'::int", 100038, "22018"),
        ("list @nowhere", 2003, "02000"),
        ("list @nowhere extra", 1003, "42000"),
        ("list @a.b.c.d", 1003, "42000"),
        ("show stages in schema nowhere", 2043, "02000"),
        ("create stage nowhere.x.y", 2003, "02000"),
        ("use schema nowhere", 2043, "02000"),
        ("copy into @fs from t file_format = (type = csv)", 9999, "0A000"),
        ("merge into t using u on true", 9999, "0A000"),
        ("show parameters", 9999, "0A000"),
    ],
)
def test_an_error_carries_its_number_its_state_and_the_query_id(snowflake_server, ask, sql, errno, sqlstate):
    ask("create stage fs")

    with pytest.raises(ProgrammingError) as caught:
        ask(sql)

    last = snowflake_server.statements()[-1]
    assert (caught.value.errno, caught.value.sqlstate) == (errno, sqlstate)
    assert (last.errno, last.status) == (errno, "FAILED_WITH_ERROR")
    assert caught.value.sfqid == last.query_id


def test_describing_a_query_does_not_run_it(snowflake_server, kept_snowflake_connection):
    cursor = kept_snowflake_connection.cursor()

    described = cursor.describe("select 1::number(10, 2) as price, 'x' as \"a b\", 'a'::int as never")

    assert [(column.name, column.type_code, column.precision, column.scale) for column in described] == [
        ("PRICE", 0, 10, 2),
        ("a b", 2, None, None),
        ("NEVER", 0, 38, 0),
    ]
    assert snowflake_server.statements() == []
    assert [seen.describe_only for seen in snowflake_server.statements(described=True)] == [True]


def test_a_repeated_request_gets_the_first_answer_and_runs_nothing(snowflake_server, ask):
    ask("create table t (i int)")
    snowflake_server.fault("unanswered", statement="^insert")

    ask("insert into t select 1")

    assert ask("select count(*) from t") == [(1,)]
    assert [seen["path"] for seen in snowflake_server.requests()].count("/queries/v1/query-request") == 4


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


# --- stages ----------------------------------------------------------------------------------------------------------

NAMES = ["FS", "fs", "my stage", "a.b", 'qu"ote', "ünï", "A_B", "A%B", "x'; DROP"]


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_of_any_name_is_found_under_exactly_that_name(snowflake_server, kept_snowflake_connection, name):
    cursor = kept_snowflake_connection.cursor(DictCursor)
    for other in ("AXB", "My Stage", name):
        cursor.execute(f"create or replace stage {quoted(other)} encryption = (type = 'SNOWFLAKE_SSE')")
    location = f"@{quoted('DB1')}.{quoted('S1')}.{quoted(name)}/x"
    snowflake_server.put(location, b"1")

    rows = cursor.execute('show stages in schema "DB1"."S1"').fetchall()
    escaped = location.replace("'", "''")
    listed = cursor.execute(f"list '{escaped}'").fetchall()

    [row] = [row for row in rows if row["name"] == name]
    assert (row["database_name"], row["schema_name"], row["type"]) == ("DB1", "S1", "INTERNAL NO CSE")
    assert len(listed) == 1


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_show_stages_like_takes_wildcards_and_no_notice_of_case(ask):
    for name in ("a_b", "axb", "abc"):
        ask(f"create stage {name}")

    found = {like: [row[1] for row in ask(f"show stages like '{like}'")] for like in ("A_B", r"a\\_b", "%C", "ab")}

    assert found == {"A_B": ["AXB", "A_B"], r"a\\_b": ["A_B"], "%C": ["ABC"], "ab": []}


def test_a_stage_is_server_side_encrypted_only_if_so_made(ask):
    ask("create stage plain")
    ask("create stage full encryption = (type = 'SNOWFLAKE_FULL') comment = 'x' directory = (enable = true)")
    ask("create stage sse encryption = (type = 'SNOWFLAKE_SSE')")
    ask("create stage if not exists sse")

    assert [(row[1], row[10]) for row in ask("show stages")] == [
        ("FULL", "INTERNAL"),
        ("PLAIN", "INTERNAL"),
        ("SSE", "INTERNAL NO CSE"),
    ]


def test_a_stage_that_is_there_is_not_made_again(ask):
    ask("create stage fs")

    with pytest.raises(ProgrammingError) as caught:
        ask("create stage fs")

    assert caught.value.errno == 2002


def test_dropping_a_schema_drops_its_stages(ask):
    ask("create schema scratch")
    ask("create stage scratch.fs")

    ask("drop schema scratch")

    with pytest.raises(ProgrammingError):
        ask("list @db1.scratch.fs")


# --- the process -----------------------------------------------------------------------------------------------------


def test_the_server_ends_with_the_process_that_started_it():
    program = (
        "import sys, time; from tests.support.snowflake_server import Server\n"
        "server = Server(); print(server.port, server.folder, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    port, folder = parent.stdout.readline().split()

    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    deadline = time.monotonic() + 20
    while (answers(int(port)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not answers(int(port))
    assert not Path(folder).exists()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_what_the_server_does_not_know_is_not_found(snowflake_server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{snowflake_server.url}/somewhere/else")
    caught.value.close()

    assert caught.value.code == 404
