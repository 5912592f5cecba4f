"""The cache of fetched files: shared by processes, within its limit, whole after anything."""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import FileSetLocationError, FileSetNotFoundError, SpecError
from fileset_integrations.storage.fetched import FetchedFiles, file_key
from fileset_integrations.storage.lru import LruFiles
from tests.support import ROOT, count
from tests.support.disks import disk_of
from tests.support.staged import PROFILE, STAGE, fetched_files, load_numbers, staged_numbers


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def keep(files: FetchedFiles, data: bytes) -> str:
    key = digest(data + b"key")
    with files.locked(key), files.room(key, len(data)) as room:
        (room.folder / "data").write_bytes(data)
        files.keep(room, room.folder / "data", digest(data))
    return digest(data)


def used_bytes(root: Path) -> int:
    """Bytes of all files in the cache and on their way, as they lie on the disk at one moment."""
    files = root / "files"
    if not (files / ".lock").exists():
        return 0
    with LruFiles(files)._total_lock():
        return sum(
            (Path(folder) / name).stat().st_size
            for folder, _, names in os.walk(files)
            for name in names
            if Path(folder).name != "locks" and name not in (".lock", ".total")
        )


def test_what_is_kept_is_found_under_its_content(cache):
    files = FetchedFiles(None, None)

    name = keep(files, b"abc")

    with files.open(name, 3) as opened:
        assert opened.read() == b"abc"
    assert files.open(digest(b"other"), 5) is None
    assert files.open(name, 4) is None  # another size: it was torn by a crash, and is gone
    assert files.open(name, 3) is None


def test_a_digest_is_remembered_by_snapshot_and_path(cache):
    files, key = FetchedFiles(None, None), file_key("snapshot", "data_0.parquet")

    assert files.known(key) is None
    files.remember(key, digest(b"abc"))

    assert FetchedFiles(None, None).known(key) == digest(b"abc")
    assert files.known(file_key("snapshot", "data_1.parquet")) is None


def test_the_files_used_longest_ago_make_room(cache):
    files = FetchedFiles(None, 30)
    names = [keep(files, bytes([number]) * 10) for number in range(3)]
    for age, name in zip((300, 100, 200), names, strict=True):
        path = cache / "files" / name[:2] / name
        os.utime(path, (time.time() - age,) * 2)

    new = keep(files, b"n" * 10)

    assert [files.holds(name, 10) for name in (*names, new)] == [False, True, True, True]


def test_what_is_on_its_way_counts(cache):
    files = FetchedFiles(None, 30)
    waited = threading.Event()

    def fetch() -> None:
        with files.locked("b" * 64), files.room("b" * 64, 20):
            waited.set()

    with files.locked("a" * 64), files.room("a" * 64, 20):
        other = threading.Thread(target=fetch)
        other.start()
        assert not waited.wait(0.3)  # 20 + 20 is more than 30

    other.join(10)
    assert waited.is_set()


def test_one_file_larger_than_the_limit_is_refused(cache):
    with (
        pytest.raises(SpecError, match=r"cache_bytes=10: one file alone takes 11 bytes"),
        FetchedFiles(None, 10).room("a" * 64, 11),
    ):
        pass


def test_what_others_put_there_stays(cache):
    files = FetchedFiles(None, 10)
    foreign = cache / "files" / "ab" / "notes.txt"
    foreign.parent.mkdir()
    foreign.write_text("mine")

    keep(files, b"a" * 10)
    keep(files, b"b" * 10)

    assert foreign.read_text() == "mine"


def test_the_folder_is_for_its_owner_alone(cache):
    files = FetchedFiles(None, None)
    name = keep(files, b"abc")

    assert [(folder.stat().st_mode & 0o777) for folder in (cache, cache / "files", cache / "files" / name[:2])] == [
        0o700
    ] * 3


def test_a_limit_holds_while_threads_fetch(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [30] * 20)
    limit = 4 * max(fs.manifest.files["bytes"].to_pylist())
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], used_bytes(cache))
            time.sleep(0.0005)  # others want the lock too

    watcher = threading.Thread(target=watch)
    watcher.start()
    reader = FileSetReader(fs, batch_size=20, shuffle=True, drop_last_batch=False, cache_bytes=limit)
    rows = [row for epoch in range(2) for batch in reader.iter_batches(epoch) for row in batch["id"].tolist()]
    stop.set()
    watcher.join()

    assert sorted(rows) == sorted(2 * list(range(600)))
    assert 0 < most[0] <= limit


@pytest.mark.parametrize("shuffle", [False, True])
def test_decoded_blocks_and_fetched_files_share_one_limit(snowflake_server, stage, cache, shuffle):
    fs = staged_numbers(snowflake_server, [300] * 12)
    options = {"batch_size": 100, "shuffle": shuffle, "blocks": "disk"}
    with pytest.raises(SpecError, match=r"with fetched files.*blocks='stream'") as refused:
        FileSetReader(fs, cache_bytes=1, **options)
    limit = int(re.search(r"take (\d+) bytes", str(refused.value))[1])
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], used_bytes(cache))
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    reader = FileSetReader(fs, cache_bytes=limit, **options)
    for epoch in range(4):
        rows = [row for batch in reader.iter_batches(epoch) for row in batch["id"].tolist()]
        assert sorted(rows) == list(range(3600))
    stop.set()
    watcher.join()

    assert 0 < most[0] <= limit
    snowflake_server.clear_logs()
    list(reader.iter_batches(4))
    assert snowflake_server.fetches().total() == 0  # all blocks are there, and stay


def start(what: str, name: str, cache_bytes: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            "-m",
            "tests.support.fetch_process",
            what,
            name,
            str(cache_bytes),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_four_processes_on_one_cache_fetch_each_file_once_and_leave_nothing_open(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [20] * 12)
    snowflake_server.fault("latency", file="data_", delay=0.05, times=-1)
    snowflake_server.clear_logs()

    processes = [start("fetch", "numbers") for _ in range(4)]
    outputs = [process.communicate(timeout=120) for process in processes]

    assert [out.split()[-1] for out, _ in outputs] == ["240"] * 4, [err for _, err in outputs]
    assert [err for _, err in outputs if "ResourceWarning" in err] == []
    run = fs.files()[0].split("/")[-2]
    assert {path: times for path, times in snowflake_server.fetches().items() if run in path and times != 1} == {}
    assert len([path for path in snowflake_server.fetches() if run in path]) == 12


def kill_at_some_moment(process: subprocess.Popen[str], longest_s: float, draw: random.Random) -> None:
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(draw.uniform(0, longest_s))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.mark.slow
def test_killed_fetches_leave_nothing_that_is_not_whole(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [20] * 12)
    snowflake_server.fault("slow", file="data_", delay=0.02, times=-1)
    draw = random.Random(5)

    for _ in range(count(5, 30)):
        kill_at_some_moment(start("fetch", "numbers"), 0.4, draw)
        assert all(digest(path.read_bytes()) == path.name for path in fetched_files(cache))
        if draw.random() < 0.5:
            shutil.rmtree(cache / "files")

    reader = FileSetReader(fs, batch_size=20, drop_last_batch=False, cache_bytes=2 * fs.manifest.num_bytes)
    assert [row for batch in reader.iter_batches() for row in batch["id"].tolist()] == list(range(240))
    LruFiles(cache / "files", 0).trim()
    assert LruFiles(cache / "files").entries() == []  # whoever makes room removes what was left


@pytest.mark.slow
def test_killed_makes_leave_nothing_that_opens(snowflake_server, stage, cache):
    load_numbers(snowflake_server, 2000)
    draw = random.Random(7)

    for number in range(count(5, 30)):
        name = f"set{number}"
        kill_at_some_moment(start("make", name), 1.0, draw)
        place = {"target_stage_loc": f"{STAGE}/sets", "name": name, "connection_name": PROFILE}
        try:
            found = FileSet(**place)
        except FileSetNotFoundError:
            found = FileSet.make(query="SELECT * FROM DB1.S1.NUMBERS", max_file_bytes=2000, **place)
        found.verify()
        assert sorted(found.to_arrow()["ID"].to_pylist()) == list(range(2000))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KB."""
    with disk_of("400k", tmp_path / "small") as folder:
        yield folder


def test_a_full_disk_is_a_clear_error_and_is_recovered_from(small_disk, snowflake_server, stage, monkeypatch):
    monkeypatch.setenv("FILESET_CACHE_DIR", str(small_disk))
    fs = staged_numbers(snowflake_server, [2000, 2000])
    (small_disk / "other").write_bytes(bytes(360_000))

    with pytest.raises(FileSetLocationError, match=r"the disk is full; \d+ bytes more.*cache_dir"):
        fs.to_arrow()

    (small_disk / "other").unlink()
    assert fs.to_arrow()["id"].to_pylist() == list(range(4000))


def test_a_disk_that_has_room_for_a_few_files_is_enough(small_disk, snowflake_server, stage, monkeypatch):
    monkeypatch.setenv("FILESET_CACHE_DIR", str(small_disk))
    fs = staged_numbers(snowflake_server, [1000] * 20)
    assert fs.manifest.num_bytes > 450_000

    assert fs.to_arrow()["id"].to_pylist() == list(range(20_000))


def test_a_cache_that_cannot_be_made_is_a_clear_error(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [20])
    cache.mkdir()
    (cache / "files").write_text("in the way")

    with pytest.raises(FileSetLocationError, match=r"files: cannot make the folder.*cache_dir"):
        fs.to_arrow()
