"""`fileset-train` from the inside: what is measured, what the table says, and which mistakes are one line."""

import csv
import io
import json
import math
import re
import sys
import types
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fileset_integrations import schemas, train
from fileset_integrations.decoder import TensorSpec
from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.outcome import Classification, Outcome, Regression, Score
from fileset_integrations.runs import Trained
from fileset_integrations.summary import Moments, Summary, check_codes
from fileset_integrations.throughput import throughputs

CONF = Path(str(files("fileset_integrations.conf")))


def small(root: Path, *overrides: str, of: int = 40) -> DictConfig:
    """The flights task on one flight of `of`."""
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose(
            "train",
            [
                f"paths.root_dir={root}",
                f"paths.output_dir={root}/run",
                "trainer.max_epochs=2",
                "data.batch_size=256",
                "callbacks=model_checkpoint",
                *overrides,
            ],
        )
    if "log_every_n_steps" in config.trainer:
        config.trainer.log_every_n_steps = 5  # Lightning warns where an epoch is shorter
    config.filesets.sql.departures += f"  AND f.flight_id % {of} = 0\n"
    return config


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run: its folder, what it returned, what it printed."""
    root = tmp_path_factory.mktemp("train")
    printed = io.StringIO()
    show, train.show = train.show, lambda console, *rest: show(Console(file=printed, width=100), *rest)
    try:
        value = train.run(small(root))
    finally:
        train.show = show
    return types.SimpleNamespace(root=root, value=value, text=printed.getvalue())


def test_the_table_holds_the_model_beside_both_baselines(finished):
    delays = {}
    for name in ("train", "val"):
        table = FileSet(target_stage_loc=finished.root / "data" / "filesets", name=f"flights_{name}").to_arrow()
        delays[name] = table["arr_delay"].to_numpy(), table["dep_delay"].to_numpy()
    (train_label, train_dep), (label, dep) = delays["train"], delays["val"]
    shift = (train_label - train_dep).mean()

    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in finished.text.splitlines() if "│" in line]
    table = {name: (float(rmse), float(mae)) for name, rmse, mae in lines}

    assert f"{len(label):,} validation rows" in finished.text
    assert list(table) == ["model", "training mean", f"dep_delay {shift:+.2f} (its mean difference)"]
    for errors, name in ((label - train_label.mean(), "training mean"), (label - dep - shift, list(table)[2])):
        assert table[name] == pytest.approx((np.sqrt(np.square(errors).mean()), np.abs(errors).mean()), abs=1e-3)
    assert finished.value == pytest.approx(table["model"][0], abs=1e-3)
    assert table["model"][0] < table["training mean"][0]


def test_the_verdict_agrees_with_the_table(finished):
    lines = [line.split("│")[1:-1] for line in finished.text.splitlines() if "│" in line]
    model, *baselines = [float(line[1]) for line in lines]

    assert ("beats every baseline" in finished.text) == (model < min(baselines))
    assert ("does NOT beat" in finished.text) == (model >= min(baselines))


def test_the_table_and_the_frameworks_own_validation_agree(finished):
    with (finished.root / "run" / "csv" / "metrics.csv").open() as file:
        logged = [float(row["val_rmse"]) for row in csv.DictReader(file) if row["val_rmse"]]

    assert len(logged) == 2
    assert finished.value == pytest.approx(logged[-1], rel=1e-5)


def test_speed_waiting_and_files_are_printed_and_there(finished):
    assert " rows/s); " in finished.text and " s of it waiting for data" in finished.text
    for path in ("plots/loss.png", "plots/predicted.png", "checkpoints/epoch_001.ckpt"):
        assert path in finished.text
        assert (finished.root / "run" / path).stat().st_size > 5_000


def test_its_speed_is_noted_for_the_report(finished):
    fs = FileSet(target_stage_loc=finished.root / "data/filesets", name="flights_train")

    noted = throughputs(fs.snapshot_id)[0]

    assert (noted["what"], noted["batch_size"]) == ("lightning", 256)
    assert noted["num_rows"] > 1000 and noted["seconds"] > noted["waiting_s"] > 0


def test_the_checkpoint_opens_and_predicts(finished):
    import torch

    from fileset_integrations.models.lightning import TabularRegressor

    model = TabularRegressor.load_from_checkpoint(finished.root / "run" / "checkpoints" / "last.ckpt").eval()
    inputs = model.hparams["inputs"]
    x = {
        name: torch.zeros(3, dtype=torch.int64) if "codes" in spec else torch.zeros(3, *spec["shape"])
        for name, spec in inputs.items()
    }

    assert set(inputs) == {"x", "dep_delay", "carrier", "origin", "dest"}
    assert model(x).shape == (3,)


def test_a_second_run_opens_the_filesets_of_the_first(finished):
    location = finished.root / "data" / "filesets"
    before = {path: path.stat().st_mtime_ns for path in location.rglob("*")}
    config = small(finished.root, "model.lr=0.1", "seed=1")

    made = train.make_filesets(config)

    assert {path: path.stat().st_mtime_ns for path in location.rglob("*")} == before
    assert sorted(made) == [f"{location}/flights_{name}" for name in ("train", "val")]


def test_parts_of_a_split_are_trained_on_and_validated_and_a_list_is_trained_on_as_one(finished, tmp_path):
    location = f"{finished.root}/data/filesets"
    shares = "{few:0.3,more:0.3,rest:0.4}"
    config = small(
        finished.root,
        f"paths.output_dir={tmp_path}",
        f"+filesets.split={{flights_train:{shares}}}",
        f"data.train=[{location}/flights_val,'{location}/flights_train:few']",
        f"data.val='{location}/flights_train:rest'",
        "trainer.max_epochs=1",
    )
    parts = FileSet.open(f"{location}/flights_train").split(few=0.3, more=0.3, rest=0.4)
    outcomes = []
    show, train.show = train.show, lambda console, task, outcome, trained, *rest: outcomes.append((outcome, trained))
    try:
        train.run(config)
    finally:
        train.show = show

    [(outcome, trained)] = outcomes
    rows = FileSet.open(f"{location}/flights_val").num_rows + parts["few"].num_rows
    assert outcome.num_rows == parts["rest"].num_rows
    assert trained.num_rows == rows // 256 * 256


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_and_ends_where_it_would_have_ended(finished, tmp_path):
    # Without dropout, whose draws no checkpoint holds.
    always = ("model.dropout=0", "+callbacks.model_checkpoint.save_top_k=-1")
    whole = train.run(small(finished.root, f"paths.output_dir={tmp_path}/one", *always))
    first_epoch = tmp_path / "one" / "checkpoints" / "epoch_000.ckpt"

    resumed = train.run(small(finished.root, f"paths.output_dir={tmp_path}/two", *always, f"ckpt_path={first_epoch}"))

    assert resumed == pytest.approx(whole, rel=1e-6)
    rows = json.loads((tmp_path / "two" / "result.json").read_text())["metrics"]
    assert rows["val_rmse"] == resumed


@pytest.mark.slow
def test_a_keras_run_goes_on_from_a_folder_and_ends_where_it_would_have_ended(finished, tmp_path):
    def run(name, *overrides):
        always = ("framework=keras", "callbacks=none", "model.dropout=0", f"paths.output_dir={tmp_path / name}")
        return train.run(small(finished.root, *always, *overrides))

    whole = run("whole")
    run("first", "trainer.max_epochs=1", f"ckpt_path={tmp_path / 'state'}")

    assert run("second", f"ckpt_path={tmp_path / 'state'}") == pytest.approx(whole, rel=1e-6)


def test_an_edited_query_is_told_and_never_opens_the_old_rows(finished):
    with pytest.raises(train.TrainError, match="another query"):
        train.run(small(finished.root, of=50))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimized_metric=val_rsme"], r"optimized_metric is 'val_rsme'.*val_rmse, val_mae"),
        (["model.baseline=distance"], r"model\.baseline is 'distance'.*dep_delay"),
        (["evaluation.baseline=carriers"], r"evaluation\.baseline is 'carriers'.*dep_delay"),
        (["columns.label=null"], r"columns\.label is null"),
        (["columns.label=arr_dellay"], r"arr_dellay"),
        (["data.val=null"], r"data\.val is missing.*LOCATION/NAME"),
        (["data.train=[a/b,3]"], r"data\.train is not a string"),
        (["data.train=[]"], r"data\.train is not a string"),
        (["data.train=[${data.val},a/b]"], r"a/b: there is no complete FileSet"),
        (["data.val=[a/b,c/d]"], r"data\.val is not a string"),
        (["data.val=${data.train}:late"], r"names the part .*flights_train:late'.*There are: none"),
        (["+filesets.split={flights_val:{a:0.5,b:0.4}}"], r"a=0\.5, b=0\.4 sum to 0\.9"),
        (["+filesets.split={flights:{a:0.5,b:0.5}}"], r"filesets\.split\.flights: .*makes: flights_train, flights_val"),
        (["data.val=${source.location}/flights_test"], r"flights_test"),
        (["data.batch_size=0"], r"batch_size"),
        (["data.batch_size=1000000"], r"no full batch"),
        (["model=flights_keras"], r"framework=lightning.*tabular_regressor.*model=flights_mlp"),
        (["trainer=keras"], r"framework=lightning.*KerasTrainer.*trainer=cpu"),
        (["trainer.accelerator=abacus"], r"`trainer`: .*abacus"),
        (["model.lr=0"], r"lr must be > 0"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(finished, overrides, message, tmp_path):
    with pytest.raises(train.TrainError) as caught:
        train.run(small(finished.root, f"paths.output_dir={tmp_path}", *overrides))

    assert re.search(message, str(caught.value), re.DOTALL), caught.value
    assert isinstance(caught.value.__cause__, Exception)


def test_the_other_backend_of_a_loaded_keras_is_refused(tmp_path, monkeypatch):
    loaded = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setitem(sys.modules, "keras", loaded)

    with pytest.raises(train.TrainError, match=r"keras\.backend=jax.*with torch"):
        train.run(small(tmp_path, "framework=keras", "callbacks=none", "keras.backend=jax"))


def test_an_absent_framework_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fileset_integrations.runs.lightning", None)

    with pytest.raises(train.TrainError, match=r"pip install \"fileset-integrations\[lightning,recipes\]\""):
        train.run(small(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["experiment=flights"]),
        (["-m", "model.lr=0.1,0.01"], ["-m", "experiment=flights", "model.lr=0.1,0.01"]),
        (["seed=1", "-m"], ["experiment=flights", "seed=1", "-m"]),
        (["--config-dir", "mine", "data=mine"], ["--config-dir", "mine", "experiment=flights", "data=mine"]),
        (["--cfg", "job"], ["experiment=flights", "--cfg", "job"]),
        (["experiment=mine", "seed=1"], ["experiment=mine", "seed=1"]),
        (["+experiment=mine"], ["+experiment=mine"]),
    ],
)
def test_a_recipes_choice_stands_unless_the_command_line_makes_another(arguments, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *arguments])
    monkeypatch.setenv("FILESET_ROOT", "unused")
    monkeypatch.setattr(train, "_hydra_main", lambda: None)

    train.main("experiment=flights")

    assert sys.argv == ["recipe.py", *expected]


# --- what is measured ------------------------------------------------------------------------------------------------


@given(
    npst.arrays(np.float64, st.tuples(st.integers(1, 50), st.integers(1, 3)), elements=st.floats(-1e6, 1e6)),
    st.integers(1, 7),
)
def test_moments_of_parts_are_moments_of_the_whole(values, parts):
    moments = Moments()

    for part in np.array_split(values, parts):
        moments.update(part)

    spread = values.std(axis=0)
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-9, atol=1e-6)
    constant = spread <= 1e-9 * np.maximum(np.abs(values.mean(axis=0)), 1)
    np.testing.assert_allclose(moments.std[~constant], spread[~constant], rtol=1e-6, atol=1e-6)
    assert (moments.std > 0).all()


def test_a_summary_describes_every_feature_in_plain_values():
    tensors = (
        TensorSpec("x", (2,), np.dtype("float32")),
        TensorSpec("late", (), np.dtype("int64")),
        TensorSpec("carrier", (), np.dtype("int64"), 4),
        TensorSpec("words", (3,), np.dtype("int64"), 9),
    )
    summary = Summary({tensor.name: tensor for tensor in tensors}, baseline="late")
    summary.update(
        {
            "x": np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32),
            "late": np.array([10, 20]),
            "carrier": np.array([2, 3]),
            "words": np.zeros((2, 3), np.int64),
            "label": np.array([11.0, 23.0], dtype=np.float32),
        }
    )

    assert summary.inputs() == {
        "x": {"shape": [2], "mean": [2.0, 5.0], "std": [1.0, 1.0]},
        "late": {"shape": [], "mean": [15.0], "std": [5.0]},
        "carrier": {"codes": 4},
        "words": {"codes": 9, "shape": [3]},
    }
    assert summary.target() == {"mean": 2.0, "std": 1.0}
    assert json.loads(json.dumps(summary.inputs())) == summary.inputs()
    with pytest.raises(SpecError, match=r"'words' holds codes of shape \(3,\) a row"):
        check_codes(summary.inputs())


def batches(*sizes: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    return [{"late": generator.normal(size=n), "label": generator.normal(size=n) + 3} for n in sizes]


def test_a_regression_counts_every_row_once():
    evaluation, rows = Regression(baseline="late"), batches(30, 1, 0, 12)
    for batch in rows:
        evaluation.learn(batch)
    label, late = (np.concatenate([batch[name] for batch in rows]) for name in ("label", "late"))

    outcome = evaluation.score(rows, lambda batch: batch["late"] * 2, num_rows=43)

    expected = [late * 2, np.full(43, label.mean()), late + (label - late).mean()]
    assert outcome.num_rows == 43
    for score, answer in zip(outcome.scores, expected, strict=True):
        assert score.values == pytest.approx(
            {"RMSE": math.sqrt(np.square(answer - label).mean()), "MAE": np.abs(answer - label).mean()}
        )
    assert outcome.metrics == {"val_rmse": outcome.scores[0].values["RMSE"], "val_mae": outcome.scores[0].values["MAE"]}


def test_a_classification_counts_every_row_once(tmp_path):
    evaluation = Classification(num_classes=3, features="x")
    evaluation.learn({"x": np.array([[0.0], [10.0], [10.0]]), "label": np.array([0, 1, 1])})
    rows = [
        {"x": np.array([[1.0], [9.0]]), "label": np.array([0, 1])},
        {"x": np.array([[9.0], [9.0]]), "label": np.array([2, 0])},
    ]

    outcome = evaluation.score(rows, lambda batch: np.array([0, 2]), num_rows=4)

    # The model answers 0, 2, 0, 2; always 1 is right once; the nearest mean says 0, 1, 1, 1.
    assert [score.values["accuracy"] for score in outcome.scores] == [0.25, 0.25, 0.5]
    assert outcome.metrics == {"val_accuracy": 0.25}
    assert [path.stat().st_size > 0 for path in outcome.draw(tmp_path)] == [True]


def test_a_classification_answers_with_the_commonest_class_of_a_code():
    evaluation = Classification(num_classes=3, baseline="script")
    evaluation.learn({"script": np.array([2, 2, 2, 3]), "label": np.array([1, 1, 0, 2])})
    evaluation.learn({"script": np.array([3, 3, 4]), "label": np.array([2, 0, 0])})
    rows = [{"script": np.array([2, 3, 4, 9]), "label": np.array([1, 2, 0, 0])}]

    outcome = evaluation.score(rows, lambda batch: np.array([1, 1, 1, 1]), num_rows=4)

    # Of 2 the commonest is 1, of 3 it is 2, of 4 it is 0; of 9, which training never saw, it is that of all: 0.
    assert {score.name: score.values["accuracy"] for score in outcome.scores} == {
        "model": 0.25,
        "always 0, the commonest": 0.5,
        "the commonest of its script": 1.0,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Regression().learn({"label": np.zeros((3, 2))}), "one number a row"),
        (lambda: Regression("late").learn({"label": np.zeros(3), "x": np.zeros(3)}), "'late'.*x"),
        (lambda: Regression().score([], lambda batch: batch["x"], num_rows=0), "no validation rows"),
        (lambda: Classification(1), "at least 2 classes"),
        (lambda: Classification(2).learn({"label": np.array([2])}), r"outside \[0, 2\)"),
        (lambda: Classification(2, "x").learn({"label": np.array([1])}), "'x'"),
        (lambda: Classification(2, baseline="s").learn({"label": np.array([1])}), "evaluation.baseline is 's'"),
        (lambda: Classification(2, baseline="s").learn({"label": np.array([1]), "s": np.ones(1)}), "one code a row"),
        (lambda: Classification(2).score([], lambda batch: batch["x"], num_rows=0), "no validation rows"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(SpecError, match=message) as caught:
        call()

    assert isinstance(caught.value, FileSetError)


@pytest.mark.parametrize(
    ("model", "baselines", "lower", "says"),
    [
        (1.0, [2.0, 3.0], True, "beats every baseline"),
        (2.5, [2.0, 3.0], True, "does NOT beat this in m: first"),
        (2.0, [2.0, 3.0], True, "does NOT beat this in m: first"),
        (4.0, [2.0, 3.0], True, "does NOT beat this in m: first; second"),
        (math.nan, [2.0, 3.0], True, "does NOT beat this in m: first; second"),
        (0.9, [0.5, 0.8], False, "beats every baseline"),
        (0.7, [0.5, 0.8], False, "does NOT beat this in m: second"),
    ],
)
def test_the_verdict_is_honest(model, baselines, lower, says):
    scores = [Score(name, {"m": m}) for name, m in zip(["model", "first", "second"], [model, *baselines], strict=True)]

    outcome = Outcome(scores, {}, lower, "", 1, lambda folder: [])

    assert says in outcome.verdict()


def test_waiting_that_cannot_be_seen_is_not_made_up(tmp_path):
    outcome = Outcome([Score("model", {"accuracy": 0.5})], {}, False, "", 10, lambda folder: [])
    printed = io.StringIO()

    trained = Trained(lambda batch: batch["x"], {}, 100, 2.0, None)
    train.show(Console(file=printed, width=80), "task", outcome, trained, tmp_path, {})

    assert "100 rows in 2.00 s (50 rows/s); the time spent waiting for data is not visible" in printed.getvalue()
    assert "50.00%" in printed.getvalue()


def test_a_config_prints_as_it_is_written():
    # What a run leaves in .hydra/config.yaml can be read, and composed again.
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose("train", ["experiment=digits"])

    assert OmegaConf.create(OmegaConf.to_yaml(config)).trainer.max_epochs == 10
