"""A training's state in a folder: whole or not there, whenever its writer is killed; damage is refused."""

import json
import os
import signal
import sys

import numpy as np
import pytest

from fileset_integrations import checkpoints
from fileset_integrations.checkpoints import CheckpointFolder
from fileset_integrations.errors import CheckpointError

FIRST = {"step": 1}, {"model/0": np.arange(6.0).reshape(2, 3), "model/1": np.array(7, np.uint32)}
SECOND = {"step": 2}, {"model/0": np.ones((4, 2), np.float32), "model/1": np.array([], np.int64)}


def equal(found, wanted) -> bool:
    if found is None:
        return False
    (facts, arrays), (wanted_facts, wanted_arrays) = found, wanted
    same = all(
        np.array_equal(arrays[name], value) and arrays[name].dtype == value.dtype
        for name, value in wanted_arrays.items()
    )
    return facts == {"format": checkpoints.FORMAT, **wanted_facts} and arrays.keys() == wanted_arrays.keys() and same


def test_what_is_saved_is_loaded_and_the_one_before_is_gone(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "state")

    assert folder.load() is None
    folder.save(*FIRST)
    assert equal(folder.load(), FIRST)
    folder.save(*SECOND)

    assert equal(CheckpointFolder(tmp_path / "new" / "state").load(), SECOND)
    assert [path.name for path in (tmp_path / "new" / "state").iterdir()] == ["save-00000001"]


def killed_at_line(path, number) -> bool:
    """Save SECOND in a process that is killed before the so-manyth line of the module that it runs."""
    pid = os.fork()
    if pid == 0:
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            if frame.f_code.co_filename != checkpoints.__file__:
                return None
            if event == "line":
                lines += 1
                if lines == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        CheckpointFolder(path).save(*SECOND)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_writer_killed_at_any_line_leaves_a_whole_state_and_the_next_one_cleans_up(tmp_path):
    seen, number = [], 0
    while True:
        number += 1
        path = tmp_path / str(number)
        CheckpointFolder(path).save(*FIRST)
        if not killed_at_line(path, number):
            break
        found = CheckpointFolder(path).load()
        seen.append("first" if equal(found, FIRST) else "second" if equal(found, SECOND) else "torn")
        CheckpointFolder(path).save(*FIRST)
        assert equal(CheckpointFolder(path).load(), FIRST)
        assert len(list(path.iterdir())) == 1

    assert seen == sorted(seen)
    assert set(seen) == {"first", "second"}
    assert len(seen) > 20


def test_a_flipped_byte_or_a_truncation_anywhere_is_refused_and_the_file_named(tmp_path):
    CheckpointFolder(tmp_path).save(*FIRST)
    for file in ("facts.json", "arrays.npz"):
        path = tmp_path / "save-00000000" / file
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            for damaged in (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole[:place]):
                path.write_bytes(damaged)
                try:
                    found = CheckpointFolder(tmp_path).load()
                except CheckpointError as error:
                    assert str(path) in str(error)
                    assert "to train anew" in str(error)
                else:
                    assert equal(found, FIRST), "a byte that means nothing: a time in the archive's directory"
        path.unlink()
        with pytest.raises(CheckpointError, match=file):
            CheckpointFolder(tmp_path).load()
        path.write_bytes(whole)


def test_what_holds_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "save-00000000").mkdir()
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(CheckpointError, match=r"holds 'thesis.tex'"):
        CheckpointFolder(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read as a folder"):
        CheckpointFolder(tmp_path / "thesis.tex")

    assert (tmp_path / "thesis.tex").exists()


def test_another_format_is_refused_by_its_number(tmp_path):
    CheckpointFolder(tmp_path).save(*FIRST)
    body = json.dumps({"format": 9})
    (tmp_path / "save-00000000" / "facts.json").write_text(
        json.dumps({"sha256": checkpoints._digest(body), "facts": body})
    )

    with pytest.raises(CheckpointError, match="format 9"):
        CheckpointFolder(tmp_path).load()


def test_two_trainings_cannot_keep_their_state_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LOCK_SECONDS", 0.01)
    one, other = CheckpointFolder(tmp_path), CheckpointFolder(tmp_path)
    one.acquire()

    with pytest.raises(CheckpointError, match="another training"):
        other.acquire()
    one.release()
    other.acquire()
    other.release()


def test_no_pickle_is_read(tmp_path):
    CheckpointFolder(tmp_path).save(*FIRST)
    with (tmp_path / "save-00000000" / "arrays.npz").open("wb") as file:
        np.savez(file, x=np.array([{"a": 1}], object))

    with pytest.raises(CheckpointError, match="damaged"):
        CheckpointFolder(tmp_path).load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(CheckpointError, match="cannot be written"):
        CheckpointFolder(tmp_path / "state").save(*FIRST)
