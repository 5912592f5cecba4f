"""The local Snowflake's faults: each strikes where and as often as it was told, and is seen as it would be."""

import http.client
import io
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import Error, InternalError, OperationalError, ProgrammingError

from tests.support import ROOT
from tests.support.snowflake_server.faults import OF_FILES, OF_STATEMENTS, TRANSPORT, Fault
from tests.support.snowflake_server.settings import Settings
from tests.support.stage_files import SSE

BYTES = bytes(range(256)) * 1_000
COPY = (
    "copy into @fs/d/ from (select i::bigint as i from t) file_format = (type = parquet) header = true"
    " max_file_size = 20000 detailed_output = true"
)


@pytest.fixture
def ask(ask, snowflake_server):
    """Run one statement where a stage FS holds x0.bin to x2.bin; returns all rows."""
    ask(f"create stage fs {SSE}")
    for number in range(3):
        snowflake_server.put(f"@DB1.S1.FS/f/x{number}.bin", BYTES)
    return ask


@pytest.fixture
def url(ask) -> str:
    [[url]] = ask("select get_presigned_url(@fs, 'f/x1.bin', 60)")
    return url


def body_of(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read()


# --- on the way of a file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_a_status_comes_as_often_as_it_was_told_and_where(snowflake_server, ask, url, status):
    snowflake_server.fault("status", file="x1", status=status, times=2, skip=1, headers=[["Retry-After", "7"]])
    [[other]] = ask("select get_presigned_url(@fs, 'f/x2.bin', 60)")

    seen = []
    for wanted in (url, other, url, url, url):
        try:
            seen.append(len(body_of(wanted)))
        except urllib.error.HTTPError as error:
            with error:
                seen.append((error.code, error.headers["Retry-After"]))

    assert seen == [len(BYTES), len(BYTES), (status, "7"), (status, "7"), len(BYTES)]
    assert [rule["applied"] for rule in snowflake_server.faults()] == [2]


@pytest.mark.parametrize("after", [0, 1, 100_000, -1])
def test_a_short_body_ends_early(snowflake_server, url, after):
    snowflake_server.fault("truncate", file="x1", after=after)

    with pytest.raises(http.client.IncompleteRead) as caught:
        body_of(url)

    assert caught.value.partial == BYTES[:after]


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_reset_breaks_the_connection(snowflake_server, url, after):
    snowflake_server.fault("reset", file="x1", after=after)

    with pytest.raises((ConnectionResetError, urllib.error.URLError)) as caught:
        body_of(url)

    assert isinstance(getattr(caught.value, "reason", caught.value), ConnectionResetError)


@pytest.mark.parametrize("after", [0, 1_000, -1])
def test_one_byte_is_flipped(snowflake_server, url, after):
    snowflake_server.fault("corrupt", file="x1", after=after)

    body = body_of(url)

    assert [at for at, pair in enumerate(zip(body, BYTES, strict=True)) if pair[0] != pair[1]] == [after % len(BYTES)]
    assert body_of(url) == BYTES


@pytest.mark.parametrize(("action", "pieces"), [("slow", 4), ("latency", 1)])
def test_slowness_takes_its_time(snowflake_server, url, action, pieces):
    snowflake_server.fault(action, file="x1", delay=0.05)

    began = time.monotonic()
    body = body_of(url)

    assert body == BYTES
    assert time.monotonic() - began >= 0.05 * pieces


@pytest.mark.parametrize(("action", "status"), [("missing", 404), ("expired", 403)])
def test_a_file_goes_missing_or_its_url_expires(snowflake_server, url, action, status):
    snowflake_server.fault(action, file="x1")

    with pytest.raises(urllib.error.HTTPError) as caught:
        body_of(url)

    with caught.value as error:
        assert error.code == status
    assert body_of(url) == BYTES


def test_the_status_of_expired_urls_can_be_chosen(snowflake_server, url):
    snowflake_server.configure(expired_status=400)
    snowflake_server.expire("urls")

    with pytest.raises(urllib.error.HTTPError) as caught:
        body_of(url)

    with caught.value as error:
        assert (error.code, b"ExpiredToken" in error.read()) == (400, True)


# --- under the connector's own GET -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", ["s3", "gcs"])
@pytest.mark.parametrize("rule", [{"action": "status"}, {"action": "reset"}, {"action": "expired"}], ids=str)
def test_the_connector_gets_over_what_passes_before_the_body(snowflake_server, ask, tmp_path, transfer, rule):
    snowflake_server.configure(transfer=transfer)
    snowflake_server.fault(file="x1", **rule)

    rows = ask(f"get @fs/f/ file://{tmp_path}/")

    assert [rule["applied"] for rule in snowflake_server.faults()] == [1]
    assert sorted(row[0] for row in rows) == ["x0.bin", "x1.bin", "x2.bin"]
    assert all(path.read_bytes() == BYTES for path in tmp_path.iterdir())


@pytest.mark.parametrize("transfer", ["s3", "gcs"])
@pytest.mark.parametrize("action", ["reset", "truncate", "missing"])
def test_the_connector_gives_up_on_a_broken_body_and_leaves_no_part_of_it(
    snowflake_server, ask, tmp_path, transfer, action
):
    snowflake_server.configure(transfer=transfer)
    snowflake_server.fault(action, file="x1", after=1_000)

    with pytest.raises(OperationalError) as caught:
        ask(f"get @fs/f/ file://{tmp_path}/")

    assert caught.value.errno == 4
    assert {path.name for path in tmp_path.iterdir()} <= {"x0.bin", "x2.bin"}


def test_a_put_that_loses_a_race_overwrites_nothing(snowflake_server, ask):
    snowflake_server.fault("missing", file="x1", method="HEAD")  # the connector looks, and sees no file yet

    [row] = ask("put 'file:///x1.bin' @fs/f auto_compress = false", file_stream=io.BytesIO(b"late"))

    assert row[6] == "SKIPPED"
    assert snowflake_server.files("@DB1.S1.FS/f/x1.bin")[0].read() == BYTES


def get_with_what_expires_on_the_way(server, ask, folder: Path, what: str) -> list[tuple]:
    """GET x1.bin; the keys or URLs that the answer gives expire before the connector has them."""
    server.fault("latency", statement="^get", delay=0.5)
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(ask, f"get @fs/f/x1.bin file://{folder}/")
        while not any(statement.status == "SUCCESS" for statement in server.statements()[1:]):
            time.sleep(0.01)
        server.expire(what)
        return getting.result()


def test_urls_that_expire_before_they_are_used_are_renewed(snowflake_server, ask, tmp_path):
    snowflake_server.configure(transfer="gcs")

    rows = get_with_what_expires_on_the_way(snowflake_server, ask, tmp_path, "urls")

    assert rows == [("x1.bin", len(BYTES), "DOWNLOADED", "")]
    assert sum(sql.startswith("get") for sql in snowflake_server.sql()) == 2


def test_keys_that_expire_before_the_connector_looks_fail_its_get_and_another_get_has_new_ones(
    snowflake_server, ask, tmp_path
):
    # It looks with HEAD, whose answer has no body to say why it is refused.
    with pytest.raises(OperationalError):
        get_with_what_expires_on_the_way(snowflake_server, ask, tmp_path, "credentials")

    assert ask(f"get @fs/f/x1.bin file://{tmp_path}/")[0][2] == "DOWNLOADED"


def test_keys_that_expire_between_look_and_get_are_renewed(snowflake_server, ask, tmp_path):
    snowflake_server.fault("expired", file="x1")

    rows = ask(f"get @fs/f/ file://{tmp_path}/")

    assert len(rows) == 3
    assert sum(sql.startswith("get") for sql in snowflake_server.sql()) > 1


# --- on statements ---------------------------------------------------------------------------------------------------


def test_an_error_can_be_planted(snowflake_server, ask):
    snowflake_server.fault("error", statement="^select 1", errno=390_707, sqlstate="22000", message="Not today.")

    with pytest.raises(ProgrammingError) as caught:
        ask("select 1")

    assert (caught.value.errno, caught.value.sqlstate) == (390_707, "22000")
    assert "Not today." in str(caught.value)
    assert ask("select 1") == [(1,)]


def test_a_lost_answer_is_of_a_statement_that_was_carried_out(snowflake_server, ask):
    snowflake_server.fault("lost", statement="^create table")

    with pytest.raises(InternalError) as caught:
        ask("create table t as select 1 as i")

    assert caught.value.errno == 6
    assert snowflake_server.statements()[-1].status == "SUCCESS"
    assert ask("select * from t") == [(1,)]


def test_before_it_is_carried_out_a_statement_that_meets_a_fault_is_sent_again(snowflake_server, ask):
    ask("create table t (i int)")
    snowflake_server.fault("status", statement="^insert", status=503)

    ask("insert into t select 1")

    assert ask("select * from t") == [(1,)]
    assert snowflake_server.sql().count("insert into t select 1") == 1


def test_an_expired_session_is_renewed_under_a_statement(snowflake_server, ask):
    snowflake_server.fault("expired", statement="^select 1")

    assert ask("select 1") == [(1,)]
    assert "/session/token-request" in [seen["path"] for seen in snowflake_server.requests()]


def test_a_login_can_fail(snowflake_server):
    snowflake_server.fault("status", request="^POST /session/v1/login-request", status=503, times=-1)

    with pytest.raises(Error):
        snowflake_server.connect(login_timeout=1)


# --- COPY and LIST ---------------------------------------------------------------------------------------------------


@pytest.fixture
def table(ask) -> None:
    ask("create table t as select seq4() as i from table(generator(rowcount => 10000))")


def names(rows: list[tuple]) -> list[str]:
    return [row[0].rpartition("/")[2] for row in rows]


@pytest.mark.usefixtures("table")
def test_a_copy_can_report_fewer_files_than_it_wrote(snowflake_server, ask):
    snowflake_server.fault("fewer", statement="^copy")

    report = ask(COPY)

    listed = ask("list @fs/d/")
    assert len(listed) > 1
    assert len(report) == len(listed) - 1


@pytest.mark.usefixtures("table")
def test_a_copy_can_report_a_file_that_is_not_there(snowflake_server, ask):
    snowflake_server.fault("missing", statement="^copy")

    report = ask(COPY)

    assert set(names(ask("list @fs/d/"))) == set(names(report)[:-1])


@pytest.mark.usefixtures("table")
def test_a_copy_can_fail_in_the_middle_and_leave_a_file(snowflake_server, ask):
    snowflake_server.fault("partial", statement="^copy", errno=604, sqlstate="57014")

    with pytest.raises(ProgrammingError) as caught:
        ask(COPY)

    [left] = snowflake_server.files("@DB1.S1.FS/d/")
    assert caught.value.errno == 604
    assert 0 < pq.read_table(io.BytesIO(left.read())).num_rows < 10_000


@pytest.mark.usefixtures("table")
def test_a_copy_whose_answer_is_lost_is_whole(snowflake_server, ask):
    snowflake_server.fault("lost", statement="^copy")

    with pytest.raises(InternalError):
        ask(COPY)

    files = snowflake_server.files("@DB1.S1.FS/d/")
    assert sum(pq.read_table(io.BytesIO(file.read())).num_rows for file in files) == 10_000


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("wrong_md5", lambda row: (row[0], row[1], "other")),
        ("wrong_size", lambda row: (row[0], row[1] + 1, row[2])),
        ("unlisted", lambda row: None),
    ],
)
def test_a_list_can_be_wrong_about_its_last_file(snowflake_server, ask, action, change):
    right = [row[:3] for row in ask("list @fs")]
    snowflake_server.fault(action, statement="^list")

    wrong = [row[:3] for row in ask("list @fs")]

    if action == "wrong_md5":
        assert wrong[-1][2] != right[-1][2]
        wrong[-1] = (*wrong[-1][:2], "other")
    assert wrong == [row for row in (*right[:-1], change(right[-1])) if row is not None]


def test_a_list_can_come_without_digests(snowflake_server, ask):
    snowflake_server.fault("no_md5", statement="^list")

    assert {row[2] for row in ask("list @fs")} == {None}


# --- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"action": "status"}, "exactly one of"),
        ({"action": "status", "file": "x", "statement": "y"}, "exactly one of"),
        ({"action": "fewer", "file": "x"}, "possible are corrupt, expired"),
        ({"action": "sattus", "request": "x"}, "possible are corrupt, latency"),
    ],
)
def test_a_rule_that_could_never_apply_is_refused(snowflake_server, rule, complaint):
    with pytest.raises(ValueError, match=complaint):
        Fault(**rule)
    with pytest.raises(ValueError, match=complaint):
        snowflake_server.fault(**rule)


def test_the_docs_name_every_fault_and_every_setting():
    text = (ROOT / "docs" / "local_snowflake.md").read_text(encoding="utf-8")

    names = {*TRANSPORT, *OF_STATEMENTS, *OF_FILES, *(field.name for field in fields(Settings))}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_a_setting_that_does_not_exist_is_refused(snowflake_server):
    with pytest.raises(ValueError, match="no setting 'transfr'"):
        snowflake_server.configure(transfr="s3")
    with pytest.raises(ValueError, match="possible are s3, gcs"):
        snowflake_server.configure(transfer="azure")


def test_a_reset_server_has_no_faults_no_stages_and_no_logs(snowflake_server, ask):
    snowflake_server.fault("error", statement="select")
    snowflake_server.advance(100_000)

    snowflake_server.reset()

    assert (snowflake_server.sql(), snowflake_server.requests(), snowflake_server.faults()) == ([], [], [])
    assert ask("select 1") == [(1,)]
    assert ask("show stages") == []
