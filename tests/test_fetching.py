"""Files of a stage on their way into the cache: what goes wrong there, and what then happens.

The fault table: what can pass is retried and passes; what cannot is a typed error that names file, stage and cause; and
after each the cache holds only verified files, and the next run succeeds.
"""

import hashlib
import io
import traceback
import warnings

import pytest

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import FileSetCorruptError, FileSetFetchError, StageFileNotFoundError
from fileset_integrations.storage import downloads
from tests.support.snowflake_server import MARK
from tests.support.staged import PROFILE, STAGE, fetched_files, make_stage, staged_numbers

ROWS = [40, 40, 40]
FILE = "data_0_1_0"  # the one that faults strike


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Waits between attempts, a tenth of the real ones."""
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.02)


def read(fs: FileSet) -> list[int]:
    return fs.to_arrow(["id"])["id"].to_pylist()


def unverified(cache) -> list[str]:
    """Names of cached files that are not the sha256 of their content, and of what is left half done."""
    cached = fetched_files(cache)
    wrong = [path.name for path in cached if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
    return wrong + [path.name for path in (cache / "files" / "parts").iterdir()]


def shown(error: BaseException | None) -> str:
    """All that a traceback could show of an error and of what led to it."""
    if error is None:
        return ""
    here = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.args)
    return here + shown(error.__cause__) + shown(error.__context__)


def fault(server, action: str, times: int, **how) -> None:
    server.fault(action, file=FILE, times=times, **how)


# Each with what it does to a file once, or a few times: it passes.
PASSING = {
    "503 once": ("status", 1, {"status": 503}),
    "429 twice": ("status", 2, {"status": 429}),
    "500 three times": ("status", 3, {"status": 500}),
    "429, and when to come again": ("status", 1, {"status": 429, "headers": [["Retry-After", "0"]]}),
    "reset before the answer": ("reset", 1, {}),
    "reset in the body": ("reset", 1, {"after": 700}),
    "reset three times in the body": ("reset", 3, {"after": 500}),
    "truncated": ("truncate", 1, {"after": 900}),
    "truncated at the last byte": ("truncate", 1, {"after": -1}),
    "truncated twice": ("truncate", 2, {"after": 100}),
    "slow": ("slow", 1, {"delay": 0.05}),
    "late": ("latency", 1, {"delay": 0.1}),
    "expired once": ("expired", 1, {}),
    "a byte flipped once": ("corrupt", 1, {"after": 300}),
    "the last byte flipped once": ("corrupt", 1, {"after": -1}),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_can_pass_is_tried_again_and_passes(name, snowflake_server, stage, cache):
    action, times, how = PASSING[name]
    fs = staged_numbers(snowflake_server, ROWS)
    fault(snowflake_server, action, times, **how)

    assert read(fs) == list(range(sum(ROWS)))

    assert [one["applied"] for one in snowflake_server.faults()] == [times]
    assert unverified(cache) == []


# What does not pass: the fault for ever, the error, what it says.
LASTING = {
    "503 for ever": ("status", {"status": 503}, FileSetFetchError, "HTTP 503; 6 attempts"),
    "403 for ever": ("status", {"status": 403}, FileSetFetchError, "HTTP 403, with fresh URLs too"),
    "404": ("missing", {}, StageFileNotFoundError, "no such file"),
    "418": ("status", {"status": 418}, FileSetFetchError, "HTTP 418"),
    "reset for ever": ("reset", {}, FileSetFetchError, "the connection failed"),
    "expired for ever": ("expired", {}, FileSetFetchError, "HTTP 40[03], with fresh URLs too"),
    "a byte flipped for ever": ("corrupt", {"after": 300}, FileSetCorruptError, "another md5.*fetched twice"),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_cannot_pass_is_an_error_that_names_file_and_cause(name, snowflake_server, stage, cache):
    action, how, error, message = LASTING[name]
    fs = staged_numbers(snowflake_server, ROWS)
    fault(snowflake_server, action, -1, **how)

    with pytest.raises(error, match=rf"(?s){STAGE}/sets/numbers/run-.*{FILE}.*{message}") as caught:
        read(fs)

    assert MARK not in shown(caught.value)
    assert unverified(cache) == []
    snowflake_server.clear_faults()
    again = FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE)
    assert read(again) == list(range(sum(ROWS)))


@pytest.mark.parametrize("after", [1, 500, -1])
def test_a_body_that_is_short_every_time_is_put_together(after, snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, ROWS)
    fault(snowflake_server, "truncate", 5, after=after)

    assert read(fs) == list(range(sum(ROWS)))


@pytest.mark.parametrize("digests", [False, True])
def test_a_file_that_became_shorter_is_found(digests, snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, ROWS, digests=digests)
    stored = next(file for file in snowflake_server.files(f"{STAGE}/sets/numbers/") if FILE in file.path)
    snowflake_server.put(f"{STAGE}/{stored.path}", stored.read()[:-10])

    with pytest.raises(FileSetCorruptError, match=f"{FILE}.* {stored.size - 10} bytes, {stored.size} were written"):
        read(fs)

    assert unverified(cache) == []


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_byte_that_was_altered_in_the_stage_is_found_by_the_manifests_digest(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, ROWS, digests=True)
    stored = next(file for file in snowflake_server.files(f"{STAGE}/sets/numbers/") if FILE in file.path)
    snowflake_server.put(f"{STAGE}/{stored.path}", flip(stored.read(), 400))

    with pytest.raises(FileSetCorruptError, match=f"(?s){FILE}.*another sha256"):
        read(fs)


def test_and_by_the_digest_of_an_earlier_fetch(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, ROWS)
    read(fs)
    for path in fetched_files(cache):
        path.unlink()
    stored = next(file for file in snowflake_server.files(f"{STAGE}/sets/numbers/") if FILE in file.path)
    snowflake_server.put(f"{STAGE}/{stored.path}", flip(stored.read(), 400))

    with pytest.raises(FileSetCorruptError, match=f"(?s){FILE}.*another sha256"):
        read(fs)


def test_without_any_digest_a_warning_says_so_and_strict_finds_a_flipped_byte(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [40], verify="auto")
    snowflake_server.fault("no_md5", statement="^LIST", times=-1)

    with pytest.warns(UserWarning, match="states no digest.*verify='strict'"):
        assert read(fs) == list(range(40))

    strict = staged_numbers(snowflake_server, ROWS, name="strict", verify="strict")
    fault(snowflake_server, "corrupt", 1, after=300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(strict) == list(range(sum(ROWS)))
    assert unverified(cache) == []


@pytest.mark.parametrize(
    ("action", "how"),
    [
        ("expired", {}),
        ("status", {"status": 503}),
        ("reset", {"after": 500}),
        ("truncate", {"after": 500}),
        ("corrupt", {"after": 500}),
    ],
)
def test_stages_that_the_client_encrypts_are_read_through_the_connector(action, how, snowflake_server, stage, cache):
    make_stage(snowflake_server, "CSE", "SNOWFLAKE_FULL")
    there = staged_numbers(snowflake_server, ROWS)
    connection = snowflake_server.connect()
    fs = there  # uploaded by the connector, which encrypts
    for file in snowflake_server.files(f"{STAGE}/sets/numbers/"):
        folder, _, name = file.path.rpartition("/")
        connection.cursor().execute(
            f"PUT 'file:///{name}' '@DB1.S1.CSE/{folder}/' AUTO_COMPRESS=FALSE", file_stream=io.BytesIO(file.read())
        )
    connection.close()
    snowflake_server.fault(action, file=FILE, times=1, **how)

    with pytest.warns(UserWarning, match="no digest"):
        fs = FileSet(target_stage_loc="@DB1.S1.CSE/sets", name="numbers", connection_name=PROFILE)
        assert read(fs) == list(range(sum(ROWS)))

    assert unverified(cache) == []


def test_urls_and_sessions_that_expire_in_an_epoch_are_renewed(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [20] * 12)
    batches = FileSetReader(fs, batch_size=10, cache_bytes=30_000).iter_batches()
    seen = []

    for number, batch in enumerate(batches):
        if number in (3, 9):
            snowflake_server.expire("urls")
            snowflake_server.expire("sessions")
            snowflake_server.expire("credentials")
        seen += batch["id"].tolist()

    assert seen == list(range(240))


def test_the_first_batch_needs_only_the_files_of_its_window(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [10] * 40)
    reader = FileSetReader(fs, batch_size=5)
    snowflake_server.fault("missing", file="data_0_[123]._0", times=-1)  # files 10 to 39

    iterator = reader.iter_batches()
    first = next(iterator)

    assert first["id"].tolist() == [0, 1, 2, 3, 4]
    iterator.close()


def test_a_second_run_fetches_nothing(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, ROWS)
    fs.pull()
    snowflake_server.clear_logs()

    again = FileSet(target_stage_loc=f"{STAGE}/sets", name="numbers", connection_name=PROFILE)

    assert read(again) == list(range(sum(ROWS)))
    run = fs.files()[0].split("/")[-2]
    assert [path for path in snowflake_server.fetches() if run in path] == []
