"""The shuffle report: how batches mix, from the plan alone."""

import numpy as np
import pytest

from fileset_integrations.fileset import FileSet
from fileset_integrations.mixing import shuffle_report
from fileset_integrations.reader import FileSetReader
from tests.support.data import numbered


@pytest.fixture(scope="module")
def sixty_files(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("sixty"), [1000] * 60)


def report(fs, **arguments):
    return shuffle_report(FileSetReader(fs, batch_size=100, blocks="stream", **arguments), batches=1000)


def test_more_streams_mix_more_files_and_come_closer_to_a_true_shuffle(sixty_files):
    reports = [report(sixty_files, shuffle=True, streams=streams) for streams in (1, 4, 16)]

    assert [round(one.files_per_batch) for one in reports] == [1, 4, 16]
    spreads = [one.position_spread for one in reports]
    assert spreads == sorted(spreads) and spreads[0] < 0.1 and 0.9 < spreads[2] < 1.1
    variances = [one.label_mean_variance for one in reports]
    assert variances == sorted(variances, reverse=True)


def test_as_many_streams_as_files_are_a_true_shuffle_to_a_label(sixty_files):
    found = report(sixty_files, shuffle=True, streams=60)

    # Each batch takes its rows from every file alike, which chance alone would not do: less variance than by chance.
    assert found.position_spread == pytest.approx(1, abs=0.05)
    assert found.label_mean_variance < 1.5


def test_a_window_of_one_file_gives_batches_as_uneven_as_the_files(sixty_files):
    found = report(sixty_files, shuffle=True, streams=1)

    # Means of single files, spread over [0, 1): their variance is 1/12, against 1/12/100 for 100 rows at random.
    assert found.label_mean_variance == pytest.approx(100, rel=0.1)


def test_the_natural_order_is_named_for_what_it_is(sixty_files):
    found = report(sixty_files)

    assert (found.streams, found.files_per_batch, found.decodes_per_block) == (1, 1, 1)
    assert found.position_spread < 0.01


def test_the_report_says_what_iteration_holds_and_decodes(sixty_files, monkeypatch):
    reader = FileSetReader(sixty_files, batch_size=100, blocks="stream", shuffle=True, streams=7)
    found = shuffle_report(reader)
    decoded = []
    monkeypatch.setattr(FileSet, "iter_file", _recording(FileSet.iter_file, decoded))

    for _ in reader.iter_batches():
        pass

    # Blocks where two spans meet are decoded twice; reading ahead may find one of them still held.
    assert found.decodes_per_block == pytest.approx(len(decoded) / 60, abs=0.05)
    assert 7 * 1000 * reader.row_bytes <= found.window_bytes <= 15 * 1000 * reader.row_bytes


def _recording(read, decoded):
    def iter_file(self, file, *arguments):
        decoded.append(file)
        return read(self, file, *arguments)

    return iter_file


def test_nothing_is_read(sixty_files, monkeypatch):
    reader = FileSetReader(sixty_files, batch_size=100, blocks="stream", shuffle=True)
    monkeypatch.setattr(FileSet, "iter_file", None)

    assert shuffle_report(reader).batches > 0


def test_a_reader_without_a_batch_has_an_empty_report(tmp_path):
    reader = FileSetReader(numbered(tmp_path, [3]), batch_size=100, shuffle=True)

    found = shuffle_report(reader)

    assert (found.batches, found.files_per_batch) == (0, 0)
    assert np.isnan(found.position_spread)
