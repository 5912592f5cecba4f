"""Snowflake as the engine: what it is asked, exactly, and what becomes of what it answers."""

import re

import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Stack
from fileset_integrations.engines.snowflake_types import Column, cast_of
from fileset_integrations.errors import (
    ColumnError,
    FileSetCorruptError,
    FileSetExistError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
    QueryError,
    SnowflakeError,
    StageNotFoundError,
)
from fileset_integrations.storage.connecting import session
from fileset_integrations.storage.opening import open_storage
from fileset_integrations.storage.stage import StageStorage
from tests.support.staged import PROFILE, STAGE, load_numbers, make_stage, run

QUERY = "SELECT ID, X FROM DB1.S1.NUMBERS"


def make(name: str = "numbers", location: str = f"{STAGE}/sets", **options) -> FileSet:
    arguments = {"query": QUERY, "connection_name": PROFILE, "max_file_bytes": 4000} | options
    return FileSet.make(target_stage_loc=location, name=name, **arguments)


@pytest.fixture(autouse=True)
def numbers(snowflake_server, stage, cache):
    load_numbers(snowflake_server, 500)
    snowflake_server.clear_logs()


def files(server) -> list[str]:
    return [file.path for file in server.files(f"{STAGE}/")]


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_the_statements_of_a_make_are_these_and_no_others(snowflake_server):
    fs = make(shuffle=True, seed=7, shuffle_key="ID", query=QUERY + ";")

    run_folder = fs.manifest.paths[0].split("/")[0]
    assert snowflake_server.sql() == [
        "SELECT CURRENT_VERSION()",
        """LIST '@"DB1"."S1"."FS"/sets/numbers/'""",
        """SHOW STAGES LIKE 'FS' IN SCHEMA "DB1"."S1\"""",
        f"""SELECT COUNT(*), COUNT(DISTINCT "ID") FROM (\n{QUERY}\n)""",
        f"""COPY INTO '@"DB1"."S1"."FS"/sets/numbers/{run_folder}/' FROM (\n"""
        """SELECT CAST("ID" AS BIGINT) AS "ID", CAST("X" AS DOUBLE) AS "X" """
        f"""FROM (\n{QUERY}\n) ORDER BY HASH("ID", 7), "ID"\n) FILE_FORMAT = (TYPE = PARQUET COMPRESSION = SNAPPY) """
        "HEADER = TRUE INCLUDE_QUERY_ID = TRUE MAX_FILE_SIZE = 4000 DETAILED_OUTPUT = TRUE",
        f"""LIST '@"DB1"."S1"."FS"/sets/numbers/{run_folder}/'""",
        f"""LIST '@"DB1"."S1"."FS"/sets/numbers/{run_folder}/'""",
        next(sql for sql in snowflake_server.sql() if "GET_PRESIGNED_URL" in sql),
        """LIST '@"DB1"."S1"."FS"/sets/numbers/'""",
        """PUT 'file:///manifest' '@"DB1"."S1"."FS"/sets/numbers/' """
        "AUTO_COMPRESS=FALSE SOURCE_COMPRESSION=NONE OVERWRITE=FALSE",
        *[sql for sql in snowflake_server.sql() if sql.startswith("GET ")],
    ]
    signed = next(sql for sql in snowflake_server.sql() if "GET_PRESIGNED_URL" in sql)
    start, _, values = signed.partition(" FROM VALUES ")
    assert start == """SELECT column1, GET_PRESIGNED_URL('@"DB1"."S1"."FS"', column1, 3600)"""
    assert sorted(values.split(", ")) == sorted(f"('sets/numbers/{path}')" for path in fs.manifest.paths)
    assert {one.tag for one in snowflake_server.statements() if not one.sql.startswith("PUT")} == {
        "fileset_integrations"
    }


@pytest.mark.parametrize(
    "name", ["my stage", 'a"b', "x' ; DROP TABLE NUMBERS --", "dots.in.it", "späße", "a_b%c", "back\\slash", "low"]
)
def test_stages_of_any_name_are_handled_right(name, snowflake_server):
    location = make_stage(snowflake_server, name)
    make_stage(snowflake_server, "AXBYC")  # which LIKE 'a_b%c' matches too

    made = make(location=f"{location}/sets")

    opened = FileSet(target_stage_loc=f"{location}/sets", name="numbers", connection_name=PROFILE)
    assert opened.snapshot_id == made.snapshot_id
    assert sorted(opened.to_arrow()["ID"].to_pylist()) == list(range(500))
    opened.delete()
    assert run(snowflake_server, f"LIST '{location.replace(chr(92), chr(92) * 2).replace(chr(39), chr(39) * 2)}'") == []
    assert run(snowflake_server, "SELECT COUNT(*) FROM DB1.S1.NUMBERS") == [(500,)]


@pytest.mark.parametrize(
    "location",
    [
        "@FS/sets",
        "@S1.FS/sets",
        "DB1.S1.FS/sets/x' ; DROP",
        "@DB1.S1.FS/../other",
        "@DB1.S1.FS/a b",
        "@DB1.S1.FS/x' ; DROP STAGE FS; --",
        '@DB1.S1."line\nbreak"/sets',
        "@DB1.S1.FS.more/sets",
        "@1DB.S1.FS",
        '@DB1.S1."open',
        "@~/sets",
        "@%table/sets",
    ],
)
def test_hostile_and_half_named_places_are_refused(location, snowflake_server):
    if not location.startswith("@"):
        location = f"@{location}"

    with pytest.raises(FileSetLocationError):
        make(location=location)

    assert snowflake_server.sql() == []


@pytest.mark.parametrize("name", ["../up", "a/b", "x' ; DROP", "", ".hidden", "nl\n", "spa ce"])
def test_hostile_names_are_refused(name, snowflake_server):
    with pytest.raises(FileSetLocationError, match="cannot name a FileSet"):
        make(name)

    assert snowflake_server.sql() == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("DROP TABLE DB1.S1.NUMBERS", "begins with 'DROP'"),
        ("/* hi */ DELETE FROM DB1.S1.NUMBERS", "begins with 'DELETE'"),
        ("SELECT 1 AS A; DROP TABLE DB1.S1.NUMBERS", "several statements"),
        ("SELECT 1 AS A) ; DROP TABLE DB1.S1.NUMBERS --", "several statements"),
        ("SELECT 1 AS A) FROM (SELECT 2 AS B", "refuses the query"),
        ("SELECT NO_SUCH FROM DB1.S1.NUMBERS", "refuses the query.*errno [1-9].*query id [0-9a-f]"),
        ("SELECT ID, ID FROM DB1.S1.NUMBERS", "two columns named 'ID'"),
    ],
)
def test_what_is_not_one_select_is_refused(query, message, snowflake_server):
    with pytest.raises(QueryError, match=f"(?s){message}"):
        make(query=query)

    assert files(snowflake_server) == []
    assert run(snowflake_server, "SELECT COUNT(*) FROM DB1.S1.NUMBERS") == [(500,)]


@pytest.mark.parametrize(
    "query",
    [
        QUERY + " ; -- done",
        "-- ;\n" + QUERY,
        f"({QUERY})",
        f"WITH T AS ({QUERY}) SELECT * FROM T",
        "SELECT ID, ';' AS \"semi;colon\" FROM DB1.S1.NUMBERS",
    ],
)
def test_comments_parentheses_and_semicolons_in_quotes_are_taken(query):
    assert make(query=query).num_rows == 500


@pytest.mark.parametrize(
    ("column", "cast"),
    [
        (Column("C", 0, 10, 0), 'CAST("C" AS BIGINT)'),
        (Column("C", 0, 18, 0), 'CAST("C" AS BIGINT)'),
        (Column("C", 0, 38, 0), 'CAST(CAST("C" AS NUMBER(18, 0)) AS BIGINT)'),
        (Column("C", 0, 15, 9), 'CAST("C" AS DOUBLE)'),
        (Column("C", 1), 'CAST("C" AS DOUBLE)'),
        (Column('quo"ted', 2), '"quo""ted"'),
        (Column("C", 3), '"C"'),
        (Column("C", 5), 'TO_JSON(TO_VARIANT("C"))'),
        (Column("C", 6), "CAST(CONVERT_TIMEZONE('UTC', \"C\") AS TIMESTAMP_NTZ)"),
        (Column("C", 7), "CAST(CONVERT_TIMEZONE('UTC', \"C\") AS TIMESTAMP_NTZ)"),
        (Column("C", 8), '"C"'),
        (Column("C", 10), '"C"'),
        (Column("C", 13), '"C"'),
        (Column("C", 16, dimension=3), 'CAST(TO_ARRAY("C") AS ARRAY(DOUBLE NOT NULL))'),
    ],
)
def test_what_each_type_is_cast_to(column, cast):
    assert cast_of(column) == cast


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column("C", 0, 38, 6), r"NUMBER\(38, 6\).*15 of its digits.*DOUBLE.*VARCHAR"),
        (Column("C", 0, 16, 2), "15 of its digits"),
        (Column("C", 14), "GEOGRAPHY.*ST_ASWKB"),
    ],
)
def test_what_would_lose_something_is_refused_by_name(column, message):
    with pytest.raises(ColumnError, match=message):
        cast_of(column)


def test_types_come_as_they_were(snowflake_server):
    snowflake_server.load(
        "DB1.S1.TYPES",
        pa.table(
            {
                "BIG": pa.array([2**53 + 1, None], pa.int64()),
                "D": pa.array([0.1, None], pa.float64()),
                "S": pa.array(["a", None]),
                "B": pa.array([True, None]),
                "DAY": pa.array([19000, None], pa.int32()).cast(pa.date32()),
            }
        ),
    )

    fs = make(query="SELECT * FROM DB1.S1.TYPES")

    assert [str(type_) for type_ in fs.schema.types] == ["int64", "double", "string", "bool", "date32[day]"]
    assert fs.to_arrow()["BIG"].to_pylist() == [2**53 + 1, None]
    assert fs.to_arrow()["D"].to_pylist() == [0.1, None]
    assert dict(fs.manifest.null_counts) == dict.fromkeys(["BIG", "D", "S", "B", "DAY"], 1)


def test_semi_structured_values_and_times_in_a_zone_have_a_form_too():
    fs = make(
        query="""
            SELECT PARSE_JSON('{"a": [1, 2]}') AS V, OBJECT_CONSTRUCT('k', 1) AS O, [1, 2]::ARRAY(FLOAT) AS A,
              '2024-01-02T03:04:05+02:00'::TIMESTAMP_TZ(3) AS TZ, '12:13:14'::TIME AS T, COUNT(*) AS C
            FROM DB1.S1.NUMBERS
        """
    )

    row = fs.to_arrow().to_pylist()[0]
    assert (row["V"], row["O"], row["A"], row["C"]) == ('{"a":[1,2]}', '{"k":1}', [1.0, 2.0], 500)
    assert (str(row["TZ"]), str(row["T"])) == ("2024-01-02 01:04:05", "12:13:14")


def test_vectors_come_as_lists_with_their_dimension():
    fs = make(query="SELECT ID, [0.5, -1.5, 2]::VECTOR(FLOAT, 3) AS V FROM DB1.S1.NUMBERS")

    opened = FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE)
    assert opened.to_arrow(limit=1)["V"].to_pylist() == [[0.5, -1.5, 2.0]]
    assert opened.schema.field("V").metadata == {b"dimension": b"3"} == fs.schema.field("V").metadata
    assert FileSetReader(opened, columns=Columns({"v": Stack("V", shape=(3,))}), batch_size=2).batch(0)["v"].shape == (
        2,
        3,
    )


def test_times_that_come_coarser_than_they_are_give_a_warning(snowflake_server):
    with pytest.warns(UserWarning, match=r"'T'.*in ms.*epoch_nanosecond"):
        make(query="SELECT ID, '2024-01-02 03:04:05.678901'::TIMESTAMP_NTZ AS T FROM DB1.S1.NUMBERS")


def test_no_rows_are_a_snapshot_too(snowflake_server):
    fs = make(query=QUERY + " WHERE ID < 0")

    opened = FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE)
    assert (fs.num_rows, opened.num_rows, opened.schema.names) == (0, 0, ["ID", "X"])
    assert opened.to_arrow().num_rows == 0


# --- shuffling, and names that are taken -----------------------------------------------------------------------------


def test_a_shuffle_by_key_is_the_same_again_and_another_with_another_seed():
    orders = [
        make(name, shuffle=True, seed=seed, shuffle_key="ID").to_arrow()["ID"].to_pylist()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]

    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(500)) != orders[0]


def test_a_shuffle_without_a_key_says_that_it_is_not_reproducible():
    fs = make(shuffle=True, seed=3)

    assert not fs.manifest.reproducible
    assert sorted(fs.to_arrow()["ID"].to_pylist()) == list(range(500))


@pytest.mark.parametrize(("key", "message"), [("X2", "does not return"), ("PARITY", "not unique: 500 rows have 2")])
def test_keys_that_are_missing_or_not_unique_are_refused(key, message, snowflake_server):
    with pytest.raises(ColumnError, match=message):
        make(query="SELECT ID, MOD(ID, 2) AS PARITY FROM DB1.S1.NUMBERS", shuffle=True, shuffle_key=key)

    assert files(snowflake_server) == []


def test_a_name_that_is_taken_stays_as_it_is(snowflake_server):
    first = make()
    before = files(snowflake_server)

    with pytest.raises(FileSetExistsError, match="already exists"):
        make()
    with pytest.raises(FileSetExistError):  # as Snowpark ML calls it
        make()

    assert files(snowflake_server) == before
    assert make(if_exists="open").snapshot_id == first.snapshot_id
    with pytest.raises(FileSetExistsError, match="another seed"):
        make(if_exists="open", seed=1)
    with pytest.raises(FileSetExistsError, match="another query"):
        make(if_exists="open", query=QUERY + " WHERE ID < 3")


def test_digests_read_back_stand_in_the_manifest(snowflake_server):
    assert None in make("without").manifest.files["sha256"].to_pylist()

    fs = make(digest="readback")

    opened = FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE)
    assert None not in opened.manifest.files["sha256"].to_pylist()
    assert opened.snapshot_id == fs.snapshot_id
    opened.verify()


# --- stages that will not do -----------------------------------------------------------------------------------------


def test_a_stage_that_the_client_encrypts_is_refused_with_the_statement_that_helps(snowflake_server):
    location = make_stage(snowflake_server, "CSE", "SNOWFLAKE_FULL")

    with pytest.raises(
        FileSetLocationError, match=r"'INTERNAL'.*CREATE STAGE \"DB1\"\.\"S1\"\.\"CSE_SSE\".*SNOWFLAKE_SSE"
    ):
        make(location=location)


@pytest.mark.parametrize("location", ["@DB1.S1.NONE/sets", "@DB1.NONE.FS/sets", '@DB1.S1."fs"/sets'])
def test_a_stage_that_is_not_there_is_an_error_with_the_statement_that_makes_it(location):
    with pytest.raises(StageNotFoundError, match="CREATE STAGE"):
        make(location=location)
    with pytest.raises((StageNotFoundError, FileSetNotFoundError)):
        FileSet(target_stage_loc=location, name="numbers", connection_name=PROFILE)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["missing", "fewer"])
def test_files_that_list_and_copy_do_not_agree_on_are_never_published(action, snowflake_server):
    snowflake_server.fault(action, statement="^COPY")

    with pytest.raises(FileSetCorruptError, match=r"COPY INTO reports .* files and LIST shows"):
        make()

    assert files(snowflake_server) == []
    assert make().num_rows == 500


@pytest.mark.parametrize("action", ["wrong_size", "unlisted"])
def test_nor_where_list_is_wrong(action, snowflake_server):
    snowflake_server.fault(action, statement="^LIST.*/run-")

    with pytest.raises(FileSetCorruptError):
        make()

    assert make().num_rows == 500


@pytest.mark.parametrize("action", ["error", "partial"])
def test_a_query_that_fails_leaves_nothing(action, snowflake_server):
    snowflake_server.fault(action, statement="^COPY", errno=100038, message="Numeric value 'secret' is not recognized")

    with pytest.raises(QueryError, match="errno 100038") as caught:
        make()

    assert "secret" not in str(caught.value)
    assert files(snowflake_server) == []
    assert make().num_rows == 500


def test_an_integer_of_too_many_digits_fails_loudly(snowflake_server):
    with pytest.raises(QueryError, match="could not run the query"):
        make(query="SELECT ID, (9223372036854775807 - ID)::NUMBER(38, 0) AS WIDE FROM DB1.S1.NUMBERS")


@pytest.mark.parametrize(
    ("action", "statement"),
    [
        *(("lost", statement) for statement in ("^COPY", "^PUT", "^LIST", "^SHOW", "GET_PRESIGNED_URL", "DISTINCT")),
        *(("unanswered", statement) for statement in ("^COPY", "^PUT")),  # the connector itself asks again
    ],
)
def test_an_answer_that_is_lost_changes_nothing(action, statement, snowflake_server):
    snowflake_server.fault(action, statement=statement)

    fs = make(shuffle=True, shuffle_key="ID")

    assert [one["applied"] for one in snowflake_server.faults()] == [1]
    assert sorted(fs.to_arrow()["ID"].to_pylist()) == list(range(500))
    runs = {path.split("/")[2] for path in files(snowflake_server)} - {"manifest"}
    assert len(runs) == 1
    FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE).verify()


def test_where_nobody_knows_whether_it_ran_nothing_is_published(snowflake_server):
    snowflake_server.fault("lost", statement="^COPY")

    with pytest.raises(SnowflakeError, match=r"was lost.*Nothing was published"):
        make(query=QUERY + " WHERE ID < 0")  # which writes no file that could tell

    assert files(snowflake_server) == []


def test_whoever_comes_second_removes_its_own_run(snowflake_server):
    first = make("winner")
    manifest = next(file for file in snowflake_server.files(f"{STAGE}/sets/winner/") if file.path.endswith("manifest"))
    seen: list[str] = []
    original = StageStorage.publish_manifest

    def publish(self, name, run_, data):
        if not seen:
            seen.append(name)
            snowflake_server.put(f"{STAGE}/sets/{name}/manifest", manifest.read())
        return original(self, name, run_, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageStorage, "publish_manifest", publish)
        with pytest.raises(FileSetExistsError):
            make("loser")

    assert [path for path in files(snowflake_server) if path.startswith("sets/loser/")] == ["sets/loser/manifest"]
    assert first.num_rows == 500


def test_orphans_are_removed_and_nothing_else(snowflake_server):
    fs = make()
    orphan = "sets/gone/run-6f1c0c5e-8a51-4b8e-9a8c-0b7a5f0f8f43/data_0_0_0.snappy.parquet"
    snowflake_server.put(f"{STAGE}/{orphan}", b"half")
    kept = set(files(snowflake_server)) - {orphan}

    removed = open_storage(f"{STAGE}/sets", session=session(None, PROFILE)).remove_orphans()

    assert [re.sub("^@DB1.S1.FS/", "", path) for path in removed] == [orphan]
    assert set(files(snowflake_server)) == kept
    fs.verify()
