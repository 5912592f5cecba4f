"""Two processes train as one does: the same sequence, every evaluation row once, the same values, in time."""

import json
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fileset_integrations import FileSet, FileSetReader
from tests.support import ROOT, SOAK
from tests.support.data import ids, numbered
from tests.support.ddp_fit import GLOBAL_BATCH_SIZE, SEED, Measured, data
from tests.support.fitting import SaveEverywhere, quiet_trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EPOCHS = 3
OF_A_RANK = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def job(folder, name, file_rows, val_rows, **options):
    """A job of `tests.support.ddp_fit`, and its FileSets."""
    for part, rows in (("train", file_rows), ("val", val_rows)):
        numbered(folder / f"{name}-{part}", rows)
    paths = {"train": str(folder / f"{name}-train"), "val": str(folder / f"{name}-val")}
    return {"name": name, "epochs": EPOCHS, **paths, **options}


def launch(folder, strategy, jobs, torchrun=False):
    """Run jobs on two ranks: how the launcher ended, and what each rank wrote for each job."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m"]
    if torchrun:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
        command += ["-m"]
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_RANK}
    process = subprocess.Popen(
        [*command, "tests.support.ddp_fit", str(folder), strategy],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what hangs can be killed whole
    )
    try:
        _, errors = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    seen = {}
    for name in (one["name"] for one in jobs):
        paths = [folder / f"{name}-{rank}.json" for rank in (0, 1)]
        seen[name] = [json.loads(path.read_text()) for path in paths if path.exists()]
    return SimpleNamespace(code=process.returncode, errors=errors, seen=seen, group=process.pid)


def alone(one, **options):
    """The same job by one process, whose batches are those of all ranks together."""
    model = Measured()
    ckpt_path, callbacks = options.pop("ckpt_path", None), options.pop("callbacks", [])
    trainer = quiet_trainer(max_epochs=one["epochs"], precision="64-true", callbacks=callbacks)
    trainer.fit(model, data(one, 1), ckpt_path=ckpt_path, weights_only=True)
    return model


def together(ranks, epoch):
    """The global batches of an epoch, from those of each rank: their rows in turn."""
    batches = zip(*(rank["train"][epoch] for rank in ranks), strict=True)
    return [[row for pair in zip(*parts, strict=True) for row in pair] for parts in batches]


def check_that_ranks_are_as_one(ranks, one, file_rows, val_rows):
    train = FileSet.from_parquet(one["train"])
    reader = FileSetReader(train, batch_size=GLOBAL_BATCH_SIZE, shuffle=True, seed=SEED)
    single = alone(one)

    assert [rank["length"] for rank in ranks] == [len(reader)] * 2 == [sum(file_rows) // GLOBAL_BATCH_SIZE] * 2
    for epoch in range(one["epochs"]):
        assert together(ranks, epoch) == ids(reader.iter_batches(epoch)) == single.epochs()[epoch]
        evaluated = [[row for batch in rank["val"][epoch] for row in batch] for rank in ranks]
        assert sorted(evaluated[0] + evaluated[1]) == list(range(sum(val_rows)))
        assert len(ranks[0]["val"][epoch]) == len(ranks[1]["val"][epoch])
    assert len(single.metrics) == one["epochs"]
    for rank in ranks:
        for measured, as_one in zip(rank["metrics"], single.metrics, strict=True):
            assert measured == pytest.approx(as_one, rel=1e-6)


def test_ranks_that_lightning_launches_train_as_one_process_does_and_each_goes_on_for_the_other(tmp_path):
    uneven, few = ((17, 2, 30, 1), (8, 3)), ((20,), (5,))  # the second: more ranks than files
    jobs = [job(tmp_path, "uneven", *uneven, saves=True), job(tmp_path, "few", *few)]
    saver = SaveEverywhere(tmp_path / "saved")
    whole = alone(jobs[0], callbacks=[saver])
    moments = ["batch-3", "validation-8", "batch-10"]
    for moment in moments:
        jobs.append({**jobs[0], "saves": False, "name": f"resumed-{moment}", "ckpt_path": str(saver.folder / moment)})

    done = launch(tmp_path, "ddp", jobs)

    assert done.code == 0, done.errors
    check_that_ranks_are_as_one(done.seen["uneven"], jobs[0], *uneven)
    check_that_ranks_are_as_one(done.seen["few"], jobs[1], *few)
    for moment in moments:
        ranks = done.seen[f"resumed-{moment}"]
        rest = [batch for epoch in range(len(ranks[0]["train"])) for batch in together(ranks, epoch)]
        assert rest == [seen for _, seen in whole.train_seen[saver.taken[moment] :]]
        # and one process goes on where two were
        resumed = alone(jobs[0], ckpt_path=tmp_path / "uneven" / moment)
        assert resumed.train_seen == whole.train_seen[saver.taken[moment] :]


def test_ranks_that_are_spawned_train_as_one_process_does_and_early_datasets_are_refused(tmp_path):
    uneven = ((17, 2, 30, 1), (8, 3))
    one = job(tmp_path, "uneven", *uneven, contexts=["fork"], epochs=1)

    done = launch(tmp_path, "ddp_spawn", [one])

    assert done.code == 0, done.errors
    ranks = done.seen["uneven"]
    check_that_ranks_are_as_one(ranks, one, *uneven)
    check_plain(ranks, "fork", sum(uneven[0]))
    for number, rank in enumerate(ranks):
        assert (
            f"made for rank 0 of 1; torch.distributed, set up since, says rank {number} of 2" in rank["early"]["error"]
        )


def test_ranks_that_torchrun_launches_share_the_rows_however_their_workers_start(tmp_path):
    uneven = ((17, 2, 30, 1), (8, 3))
    contexts = ["spawn"] if SOAK else []
    one = job(tmp_path, "uneven", *uneven, contexts=contexts, epochs=1)

    done = launch(tmp_path, "ddp", [one], torchrun=True)

    assert done.code == 0, done.errors
    ranks = done.seen["uneven"]
    check_that_ranks_are_as_one(ranks, one, *uneven)
    for context in contexts:
        check_plain(ranks, context, sum(uneven[0]))
    early = [row for rank in ranks for batch in rank["early"]["rows"] for row in batch]
    assert len(early) == len(set(early)) == 48  # torchrun says in the environment who is who


def check_plain(ranks, context, rows):
    shares = [[row for batch in rank["plain"][context] for row in batch] for rank in ranks]
    assert sorted(shares[0] + shares[1]) == list(range(rows))
    assert len(ranks[0]["plain"][context]) == len(ranks[1]["plain"][context])


def test_a_rank_that_fails_ends_all_and_says_why(tmp_path):
    one = job(tmp_path, "uneven", (40, 40, 40), (8, 3), shuffle=False, epochs=1)
    (tmp_path / "uneven-train" / "data_2.parquet").write_bytes(b"")  # which rank 0 does not read

    done = launch(tmp_path, "ddp", [one])

    assert done.code != 0
    assert "FileSetCorruptError" in done.errors and "data_2.parquet" in done.errors
    with pytest.raises(ProcessLookupError):
        os.killpg(done.group, 0)
