"""Places in stages: read, written and quoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.errors import FileSetLocationError
from fileset_integrations.storage.connecting import SnowflakeSession
from fileset_integrations.storage.listing import Listed, StageKind, path_in_stage
from fileset_integrations.storage.locations import StageLocation, identifier, literal

NAMES = st.text(min_size=1, max_size=20).filter(str.isprintable)
SEGMENT = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,9}", fullmatch=True)


def lexed(sql: str) -> str:
    """The text that Snowflake reads in a literal, which must be all there is."""
    assert sql[0] == sql[-1] == "'"
    text, at, body = "", 0, sql[1:-1]
    while at < len(body):
        if body[at] == "\\" or body[at : at + 2] == "''":
            at += 1
        else:
            assert body[at] != "'", "the literal ends early"
        text, at = text + body[at], at + 1
    return text


@given(st.builds(StageLocation, NAMES, NAMES, NAMES, st.lists(SEGMENT, max_size=3).map("/".join)))
def test_what_is_shown_is_read_as_the_same_place(location):
    assert StageLocation.parse(str(location)) == location
    assert StageLocation.parse(f"@{location.qualified}/{location.directory}/") == location


@given(st.text(max_size=30))
def test_a_literal_holds_its_text_and_nothing_after_it(text):
    assert lexed(literal(text)) == text


@given(NAMES)
def test_an_identifier_holds_its_name_and_nothing_after_it(name):
    quoted = identifier(name)

    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "") == name.replace('"', "")
    assert quoted[1:-1].count('"') == 2 * name.count('"')


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@db.schema.stage", ("DB", "SCHEMA", "STAGE", "")),
        ("@db.schema.stage/", ("DB", "SCHEMA", "STAGE", "")),
        ("@Db.sChema.stage$1/a/b/", ("DB", "SCHEMA", "STAGE$1", "a/b")),
        ('@"my db"."s"."st""age"/Dir', ("my db", "s", 'st"age', "Dir")),
        ("sfc://@_x.y.z/dir", ("_X", "Y", "Z", "dir")),
        ('@"a.b"."c/d".e/f', ("a.b", "c/d", "E", "f")),
    ],
)
def test_places_as_people_write_them(text, names):
    found = StageLocation.parse(text)

    assert (found.database, found.schema, found.stage, found.directory) == names


@pytest.mark.parametrize(
    "text",
    ["", "@", "@a", "@a.b", "a.b.c", "@a.b.c.d", "@a.b.c/..", "@a.b.c/x/../y", "@a.b.c/-x", "@a.b.c/x y", '@a.b."', "s3://b",
     "@a.b.c/x'", "@1a.b.c", '@a.b."x\ty"', "@a.b.c/über"],
)  # fmt: skip
def test_other_places_are_refused(text):
    with pytest.raises(FileSetLocationError):
        StageLocation.parse(text)


@pytest.mark.parametrize(
    ("stage", "name", "path"),
    [
        ("FS", "fs/a/b.parquet", "a/b.parquet"),
        ("my stage", "my stage/a/b.parquet", "a/b.parquet"),
        ("my stage", '"my stage"/a/b.parquet', "a/b.parquet"),
        ("a/b", "a/b/c/d.parquet", "c/d.parquet"),
        ("FS", "FS/Dir/x", "Dir/x"),
    ],
)
def test_paths_are_found_in_what_list_shows(stage, name, path):
    assert path_in_stage(name, StageLocation("DB", "S", stage)) == path


@pytest.mark.parametrize(
    ("kind", "md5", "usable"),
    [
        ("INTERNAL NO CSE", "0" * 32, "0" * 32),
        ("INTERNAL NO CSE", "0" * 32 + "-3", None),
        ("INTERNAL NO CSE", None, None),
        ("INTERNAL", "0" * 32, None),
    ],
)
def test_which_md5_is_that_of_the_content(kind, md5, usable):
    assert StageKind.of(kind).usable_md5(Listed("a", 1, md5)) == usable


def test_a_session_wants_a_connection():
    with pytest.raises(ValueError, match="no Snowflake connection"):
        SnowflakeSession(3)
