"""The recipes as users start them: in a process of their own, on small FileSets."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.support import ROOT, SOAK, count

RECIPES = ROOT / "recipes"
CONF = Path(str(files("fileset_integrations.conf")))
pytestmark = [
    pytest.mark.skipif(not RECIPES.is_dir(), reason="recipes/ is part of the checkout"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder to run in, with a `conf/` of the user's own: the flights task on one flight of many."""
    folder = tmp_path_factory.mktemp("recipes")
    departures = OmegaConf.load(CONF / "filesets" / "flights.yaml").sql.departures
    small = {
        "defaults": ["flights", "_self_"],
        "sql": {"departures": f"{departures}  AND f.flight_id % {count(40, 1)} = 0\n"},
    }
    (folder / "conf" / "filesets").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(small), folder / "conf" / "filesets" / "flights_small.yaml")
    return folder


def run(folder: Path, recipe: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "FILESET_ROOT")}
    return subprocess.run(
        [sys.executable, str(RECIPES / recipe), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def flights(folder: Path, recipe: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = ("--config-dir", "conf", "filesets=flights_small", "data.batch_size=256", "trainer.max_epochs=2")
    # Flags first: argparse takes positional arguments in one place only.
    flags = [argument for argument in arguments if argument.startswith("-")]
    return run(folder, recipe, *flags, *own, *(argument for argument in arguments if argument not in flags))


def our_warnings(text: str) -> list[str]:
    """Lines of warnings that our code or configs cause; Lightning's own use of torch is not ours to mend."""
    lines = text.splitlines()
    return [line for line in lines if "Warning" in line or "warn(" in line or "does not have many workers" in line]


def assert_table(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    for word in words:
        assert word in done.stdout, done.stdout[-3000:]
    assert our_warnings(done.stderr) == []


FLIGHTS = ("model", "training mean", "dep_delay", "RMSE (minutes)", "MAE (minutes)", "rows/s", "waiting for data")


@pytest.mark.parametrize("backend", ["torch", *(["tensorflow", "jax"] if SOAK else [])])
def test_keras_flights_trains_on_every_backend(folder, backend):
    done = flights(folder, "keras_flights.py", f"keras.backend={backend}")

    assert_table(done, *FLIGHTS, "plots/loss.png", "plots/predicted.png", "checkpoints/last.keras", "metrics.csv")
    assert "val_rmse" in done.stdout


def test_lightning_flights_sweeps_with_a_folder_for_each_run_and_the_filesets_made_once(folder):
    done = flights(folder, "lightning_flights.py", "-m", "model.lr=0.1,0.01")

    assert_table(done, *FLIGHTS, "plots/loss.png", "plots/predicted.png", "csv")
    assert done.stdout.count("validation rows") == 2
    [sweep] = (folder / "logs" / "flights" / "multiruns").iterdir()
    for number, rate in ((0, "0.1"), (1, "0.01")):
        job = sweep / str(number)
        assert f"model.lr={rate}" in (job / ".hydra" / "overrides.yaml").read_text()
        assert (job / "checkpoints" / "epoch_001.ckpt").is_file()
        assert (job / "plots" / "loss.png").is_file()
    # Both jobs name the same two snapshots, and nothing else was written beside them.
    snapshots = [line.split("snapshot ")[1] for line in done.stdout.splitlines() if ", snapshot " in line]
    assert len(snapshots) == 4 and snapshots[:2] == snapshots[2:]
    visible = [path.name for path in (folder / "data" / "filesets").iterdir() if not path.name.startswith(".")]
    assert sorted(visible) == ["flights_train", "flights_val"]


def test_lightning_digits_reads_images_from_a_list_column(folder):
    done = run(folder, "lightning_digits.py")

    assert_table(done, "accuracy", "the nearest class mean", "The model beats every baseline in accuracy.", "confusion")


def test_lightning_languages_reads_texts_as_bytes(folder):
    done = run(folder, "lightning_languages.py", "trainer.max_epochs=1", "model.channels=32", "data.batch_size=256")

    assert_table(done, "accuracy", "the commonest of its script", "The model beats every baseline in accuracy.")


def test_a_mistake_on_the_command_line_is_short(folder):
    done = run(folder, "lightning_digits.py", "optimized_metric=val_acc")

    assert done.returncode == 1
    assert "optimized_metric is 'val_acc'" in done.stderr and "val_accuracy" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.py")))
def test_a_recipe_says_how_to_start_it_and_what_to_expect(recipe):
    text = (RECIPES / recipe).read_text()

    assert text.startswith('"""') and "Expect " in text
    assert f"python recipes/{recipe}\n" in text
    assert f"python recipes/{recipe} -m model.lr=0.1,0.01\n" in text
