"""The local Snowflake's stages, asked by the genuine connector and over HTTP: GET, PUT, presigned URLs."""

import hashlib
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import Error, OperationalError

from tests.support.stage_files import PARQUET, SSE, fetch

pytestmark = pytest.mark.usefixtures("filled")


# --- GET and PUT -----------------------------------------------------------------------------------------------------

BYTES = bytes(range(256)) * 1_000


@pytest.mark.parametrize("transfer", ["s3", "gcs"])
def test_get_brings_files_as_they_are(snowflake_server, ask, tmp_path, transfer):
    snowflake_server.configure(transfer=transfer)
    for number in range(5):
        snowflake_server.put(f"@DB1.S1.FS/a b/{number}.bin", BYTES + bytes([number]))

    rows = ask(f"get '@fs/a b/' 'file://{tmp_path}/to here/' pattern = '.*[0-3].bin'")

    assert sorted(rows) == [(f"{number}.bin", len(BYTES) + 1, "DOWNLOADED", "") for number in range(4)]
    assert {path.name: path.read_bytes() for path in Path(tmp_path, "to here").iterdir()} == {
        f"{number}.bin": BYTES + bytes([number]) for number in range(4)
    }
    assert snowflake_server.fetches() == {f"a b/{number}.bin": 1 for number in range(4)}


def test_getting_nothing_is_an_error(ask, tmp_path):
    with pytest.raises(OperationalError) as caught:
        ask(f"get @fs/none/ file://{tmp_path}/")

    assert caught.value.errno == 253006


@pytest.mark.parametrize("encryption", [SSE, ""], ids=["server-side", "client-side"])
def test_what_is_put_comes_back(snowflake_server, ask, tmp_path, encryption):
    ask(f"create stage other {encryption}")
    source = tmp_path / "x.bin"
    source.write_bytes(BYTES)

    put = ask(f"put file://{source} @other/d auto_compress = false")
    got = ask(f"get @other/d/ file://{tmp_path}/got/")

    [stored] = snowflake_server.files("@DB1.S1.OTHER")
    assert put[0][6] == "UPLOADED"
    assert got == [("x.bin", len(BYTES), "DOWNLOADED", "")]
    assert Path(tmp_path, "got", "x.bin").read_bytes() == BYTES
    assert stored.path == "d/x.bin"
    assert (stored.read() == BYTES) == bool(encryption)


def test_put_takes_a_stream_and_does_not_overwrite_unless_told(snowflake_server, ask):
    def put(content: bytes, options: str = "") -> str:
        statement = f"put 'file:///manifest' '@fs/d/' auto_compress = false {options}"
        return ask(statement, file_stream=io.BytesIO(content))[0][6]

    first = put(b"one"), put(b"two", "overwrite = false")
    kept = snowflake_server.files("@DB1.S1.FS")[0].read()
    second = put(b"three", "overwrite = true")

    assert (first, kept) == (("UPLOADED", "SKIPPED"), b"one")
    assert (second, snowflake_server.files("@DB1.S1.FS")[0].read()) == ("UPLOADED", b"three")


def test_a_download_streams(snowflake_server, kept_snowflake_connection, ask):
    snowflake_server.put("@DB1.S1.FS/x.bin", BYTES)

    assert kept_snowflake_connection.cursor().download_stream("@fs/x.bin").read() == BYTES


def test_an_unload_into_a_client_side_encrypted_stage_is_for_the_connector_only(snowflake_server, ask, tmp_path):
    ask("create stage hidden")

    ask(f"copy into @hidden/d/ from (select i::bigint as i from t) {PARQUET} header = true")
    ask(f"get @hidden/d/ file://{tmp_path}/")

    [path] = tmp_path.iterdir()
    [stored] = snowflake_server.files("@DB1.S1.HIDDEN")
    assert pq.read_table(path).num_rows == 10_000
    assert not stored.read().startswith(b"PAR1")


def test_a_flipped_byte_is_seen_by_the_connector_only_where_it_decrypts(snowflake_server, ask, tmp_path):
    ask("create stage hidden")
    ask("put 'file:///x.bin' @hidden auto_compress = false", file_stream=io.BytesIO(BYTES))
    snowflake_server.put("@DB1.S1.FS/x.bin", BYTES)
    snowflake_server.fault("corrupt", file="x.bin", after=1_000, times=2)

    got = ask(f"get @fs/x.bin file://{tmp_path}/")
    with pytest.raises(Error):
        ask(f"get @hidden/x.bin file://{tmp_path}/")

    changed = Path(tmp_path, "x.bin").read_bytes()
    assert got[0][2] == "DOWNLOADED"
    assert [at for at, (old, new) in enumerate(zip(BYTES, changed, strict=True)) if old != new] == [1_000]


# --- presigned URLs --------------------------------------------------------------------------------------------------


@pytest.fixture
def url(snowflake_server, ask) -> str:
    """A URL of 'd/x y.bin' in FS, good for 60 seconds."""
    snowflake_server.put("@DB1.S1.FS/d/x y.bin", BYTES)
    [[url]] = ask("select get_presigned_url(@fs, 'd/x y.bin', 60)")
    return url


def test_a_url_gives_the_bytes_without_a_connector(url):
    answer = fetch(url)

    assert (answer.status, answer.body) == (200, BYTES)
    assert answer.headers["ETag"] == f'"{hashlib.md5(BYTES).hexdigest()}"'
    assert fetch(url, "HEAD").headers["Content-Length"] == str(len(BYTES))


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, 255_999),
        ("bytes=-8", 255_992, 255_999),
        ("bytes=255990-999999", 255_990, 255_999),
    ],
)
def test_a_range_is_a_part(url, wanted, first, last):
    answer = fetch(url, Range=wanted)

    assert (answer.status, answer.body) == (206, BYTES[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(BYTES)}"


def test_a_range_outside_is_refused(url):
    assert fetch(url, Range="bytes=256000-").status == 416


def test_a_url_expires(snowflake_server, url):
    snowflake_server.advance(59)
    before = fetch(url).status

    snowflake_server.advance(2)

    after = fetch(url)
    assert (before, after.status) == (200, 403)
    assert b"Request has expired" in after.body


def test_all_urls_expire_when_told_and_new_ones_are_good(snowflake_server, ask, url):
    snowflake_server.expire("urls")

    [[renewed]] = ask("select get_presigned_url(@fs, 'd/x y.bin', 60)")

    assert (fetch(url).status, fetch(renewed).status) == (403, 200)


def test_a_url_is_good_for_its_own_path_only(url):
    assert fetch(url.replace("x%20y", "x")).status == 403
    assert fetch(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600")).status == 403
    assert fetch(url.partition("?")[0]).status == 403


def test_many_urls_come_from_one_statement_and_a_missing_file_has_one_too(snowflake_server, ask):
    snowflake_server.put("@DB1.S1.FS/there", b"x")

    rows = ask("""select column1, get_presigned_url('@"DB1"."S1"."FS"', column1) from values ('there'), ('missing')""")

    assert {path: fetch(url).status for path, url in rows} == {"there": 200, "missing": 404}
