"""The local Snowflake, asked by the genuine connector: sessions, statements, stages, and its own process."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
import snowflake.connector
from snowflake.connector import DictCursor
from snowflake.connector.errors import DatabaseError, ProgrammingError

from tests.support import ROOT
from tests.support.snowflake_server import ACCESS_TOKEN, MARK, PASSWORD, USER

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
