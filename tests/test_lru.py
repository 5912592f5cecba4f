"""Files within a limit: who goes when room is needed, and what makers, readers, crashes and full disks do to that."""

import errno
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from fileset_integrations.errors import FileSetLocationError, SpecError
from fileset_integrations.storage.lru import _SPARE_BYTES, LruFiles
from tests.support import count


def name(number: int) -> str:
    return f"{hashlib.sha256(str(number).encode()).hexdigest()}-{number}"


def content(number: int, num_bytes: int) -> bytes:
    return bytes([number % 256]) * num_bytes


def get(files: LruFiles, number: int, num_bytes: int = 100) -> bytes:
    """The file of a number, made where it is missing."""
    with files.lock(name(number)):
        file = files.open(name(number))
        if file is None:
            file = files.add(name(number), num_bytes, lambda file: file.write(content(number, num_bytes)))
    with file:
        return file.read()


def there(files: LruFiles) -> set[int]:
    return {int(entry.name.split("-")[1]) for entry in files.entries() if entry.complete}


def taken(files: LruFiles) -> int:
    return sum(entry.num_bytes for entry in files.entries())


# --- the limit -------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_go_when_room_is_needed(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=300)
    for number in (0, 1, 2):
        get(files, number)
    get(files, 0)

    get(files, 3)
    assert there(files) == {0, 2, 3}
    get(files, 4, num_bytes=150)

    assert there(files) == {3, 4}
    assert get(files, 1) == content(1, 100)  # made again


def test_what_fits_to_the_byte_stays(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=1000)

    for _ in range(3):
        for number in range(10):
            get(files, number)

    assert there(files) == set(range(10))


def test_a_file_above_the_limit_is_refused_with_the_least_that_would_do(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=99)

    with pytest.raises(SpecError, match=r"cache_bytes=99: one file of 100 bytes"):
        get(files, 1)
    assert taken(files) == 0


def test_files_being_written_count_and_who_finds_no_room_waits_for_them(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=250)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(file):
        file.write(content(0, 50))
        begun.set()
        go_on.wait(60)
        assert taken(files) <= 250
        file.write(content(0, 150))

    def make_slowly():
        with files.lock(name(0)):
            files.add(name(0), 200, slowly).close()

    maker = threading.Thread(target=make_slowly)
    maker.start()
    begun.wait(60)
    assert get(files, 1, num_bytes=50) == content(1, 50)  # this has room beside it
    waiting = threading.Thread(target=get, args=(files, 2))  # this has not
    waiting.start()
    waiting.join(0.1)

    assert waiting.is_alive()
    assert taken(files) <= 250
    go_on.set()
    maker.join(60)
    waiting.join(60)

    assert there(files) == {2}


def test_a_smaller_limit_is_kept_from_when_it_is_asked_for(tmp_path):
    files = LruFiles(tmp_path / "root")
    for number in range(5):
        get(files, number)

    LruFiles(tmp_path / "root", max_bytes=250).trim()

    assert there(files) == {3, 4}


def test_without_a_limit_the_least_recently_used_go_when_the_disk_is_short_of_room(tmp_path, monkeypatch):
    files = LruFiles(tmp_path / "root")
    for number in range(3):
        get(files, number)
    usage = shutil.disk_usage(tmp_path)._replace(free=_SPARE_BYTES + 50)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)

    assert get(files, 3, num_bytes=200) == content(3, 200)

    assert there(files) == {2, 3}  # 150 bytes were missing: two files went


def test_a_file_that_is_open_can_be_read_to_its_end_after_it_had_to_go(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=100)
    get(files, 0)
    with files.open(name(0)) as file:
        get(files, 1)

        assert there(files) == {1}
        assert file.read() == content(0, 100)
    assert files.open(name(0)) is None


# --- what is not ours ------------------------------------------------------------------------------------------------


def test_what_it_did_not_write_is_never_removed(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(500))
    files = LruFiles(root, max_bytes=150)
    for number in range(3):
        get(files, number)
    ours = {path.parent for path in root.glob("*/*-*")}
    theirs = [root / "notes.txt", *(folder / "data.parquet" for folder in ours)]
    theirs += [root / name(5), root / "aa" / "bb" / name(6), root / "ff" / name(7)]  # not where ours would lie
    assert not name(7).startswith("ff")
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    links = [root / name(8)[:2] / name(8), root / "00"]
    links[0].parent.mkdir(exist_ok=True)
    links[0].symlink_to(outside / "precious")
    links[1].symlink_to(outside)

    for number in range(20, 24):
        get(files, number)
    LruFiles(root, max_bytes=0).trim()

    assert there(files) == set()
    assert all(path.stat().st_size == 1000 for path in theirs)
    assert all(link.is_symlink() for link in links)
    assert (outside / "precious").stat().st_size == 500


@pytest.mark.parametrize("wrong", ["", "x", "../" + "a" * 64, "A" * 64, "a" * 31, "a" * 64 + "-", "a" * 64 + ".part"])
def test_a_name_that_could_be_somebody_elses_is_refused(tmp_path, wrong):
    files = LruFiles(tmp_path / "root")

    with pytest.raises(ValueError, match="hexadecimal"):
        files.open(wrong)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def full(file):
    file.write(b"half")
    with Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")


@pytest.mark.parametrize(
    ("write", "error", "said"),
    [
        (lambda file: file.write(b"short"), ValueError, "5 bytes were written, not 100"),
        (lambda file: file.write(bytes(1000)), ValueError, "1000 bytes were written, not 100"),
        (lambda file: 1 / 0, ZeroDivisionError, "division"),
        (full, FileSetLocationError, "the disk is full; 100 bytes more were to be written"),
    ],
    ids=["too short", "too long", "a mistake", "a full disk"],
)
def test_a_file_that_cannot_be_written_leaves_nothing_and_can_be_made_later(tmp_path, write, error, said):
    files = LruFiles(tmp_path / "root", max_bytes=200)
    get(files, 0)

    with pytest.raises(error, match=said), files.lock(name(1)):
        files.add(name(1), 100, write)

    assert there(files) == {0}
    assert taken(files) == 100
    assert get(files, 1) == content(1, 100)
    assert there(files) == {0, 1}  # the failure counts for nothing: both fit


def test_a_folder_that_cannot_be_made_or_written_to_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileSetLocationError, match=r"cannot make the folder .* Pass another cache_dir="):
        LruFiles(tmp_path / "file" / "root")

    files = LruFiles(tmp_path / "root")

    def read_only(file):
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(FileSetLocationError, match=r"Read-only file system.*cache_dir="), files.lock(name(1)):
        files.add(name(1), 100, read_only)


def _die_while_writing(files, number):
    def write(file):
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with files.lock(name(number)):
        files.add(name(number), 150, write)


def test_what_killed_processes_left_goes_when_another_first_uses_the_folder_and_nothing_else(tmp_path):
    root = tmp_path / "root"
    held, go_on = multiprocessing.get_context("fork").Event(), multiprocessing.get_context("fork").Event()
    fork = multiprocessing.get_context("fork").Process
    killed, writing = (
        fork(target=lambda: _die_while_writing(LruFiles(root), 1)),
        fork(target=_write_slowly, args=(root, 2, held, go_on)),
    )
    for process in (killed, writing):
        process.start()
    killed.join(60)
    held.wait(60)
    (root / "parts" / "theirs").mkdir()
    (root / "parts" / "theirs.7").mkdir()

    files = LruFiles(root)  # of this process, for the first time

    assert sorted(path.name for path in (root / "parts").iterdir()) == sorted(["theirs", "theirs.7", f"{name(2)}.100"])
    assert int((root / ".total").read_bytes()) == taken(files) == 100
    go_on.set()
    writing.join(60)
    assert writing.exitcode == 0 and get(files, 2) == content(2, 100)


def _write_slowly(root, number, held, go_on):
    def write(file):
        file.write(content(number, 50))
        held.set()
        go_on.wait(60)
        file.write(content(number, 50))

    files = LruFiles(root)
    with files.lock(name(number)):
        files.add(name(number), 100, write).close()


def test_what_a_killed_process_left_half_written_makes_room(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=200)
    for number in (0, 1):
        killed = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(files, number))
        killed.start()
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL
        assert taken(files) == 150  # that of the first made room for the second

    assert get(files, 1) == content(1, 100)
    assert get(files, 2) == content(2, 100)
    assert taken(files) == 200


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("?")], ids=["lost", "damaged"])
def test_the_total_is_counted_anew_where_it_is_lost(tmp_path, damage):
    files = LruFiles(tmp_path / "root", max_bytes=300)
    for number in range(3):
        get(files, number)
    damage(tmp_path / "root" / ".total")

    get(files, 3)

    assert there(files) == {1, 2, 3}


def test_a_file_that_is_made_anew_takes_the_place_of_the_old(tmp_path):
    files = LruFiles(tmp_path / "root", max_bytes=200)
    get(files, 0)

    with files.lock(name(0)), files.add(name(0), 100, lambda file: file.write(bytes(100))) as file:
        assert file.read() == bytes(100)
    get(files, 1)

    assert there(files) == {0, 1}  # it counts once


# --- many at once ----------------------------------------------------------------------------------------------------


def _use_many(files, seed, uses, made, results):
    chosen, most = random.Random(seed), 0
    for _ in range(uses):
        number = chosen.randrange(12)
        num_bytes = 100 + number
        with files.lock(name(number)):
            file = files.open(name(number))
            if file is None:
                with made:
                    made.value += 1
                file = files.add(name(number), num_bytes, lambda file, n=number: file.write(content(n, 100 + n)))
        with file:
            assert file.read() == content(number, num_bytes)
        most = max(most, sum(entry.num_bytes for entry in files.entries()))
    results.put(most)


@pytest.mark.parametrize(("method", "limit"), [("fork", 400), ("fork", 10_000), ("spawn", 400)])
def test_processes_share_the_limit_and_what_is_made(tmp_path, method, limit):
    files, context = LruFiles(tmp_path / "root", max_bytes=limit), multiprocessing.get_context(method)
    made, results = context.Value("i", 0), context.Queue()
    workers = [
        context.Process(target=_use_many, args=(files, seed, count(60, 1000), made, results)) for seed in range(3)
    ]
    for worker in workers:
        worker.start()

    most = [results.get(timeout=120) for _ in workers]

    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert max(most) <= limit
    assert taken(files) == int((tmp_path / "root" / ".total").read_text())
    if limit == 10_000:
        assert made.value == 12  # each once, by whoever came first


def test_a_fork_while_a_thread_adds_files_leaves_a_child_that_can_add(tmp_path):
    files, stop = LruFiles(tmp_path / "root", max_bytes=500), threading.Event()

    def add_all_the_time():
        number = 0
        while not stop.is_set():
            get(files, number % 40)
            number += 1

    adding = threading.Thread(target=add_all_the_time)
    adding.start()
    try:
        for round_ in range(count(20, 300)):
            child = os.fork()
            if not child:
                os._exit(0 if get(files, round_) == content(round_, 100) else 1)
            until = time.monotonic() + 60
            while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
                time.sleep(0.002)
            if done == (0, 0):
                os.kill(child, signal.SIGKILL)
                done = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(done[1]) == 0
    finally:
        stop.set()
        adding.join(60)
