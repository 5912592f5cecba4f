"""Every mistake in a config is one line that names the key and what would do; and no secret is ever written."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from fileset_integrations import mistakes, schemas, train
from fileset_integrations.errors import SpecError
from tests.support.app import TINY, fileset_train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mistakes")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", r"trainer\.max_epoch: there is no such key\. Did you mean trainer\.max_epochs or"),
        ("sede=1", r"sede: there is no such key\. Did you mean seed\?"),
        ("evaluation.x=1", r"evaluation\.x: there is no such key\. The keys of evaluation are baseline, unit\."),
        ("data.shuffle=perhaps", r"data\.shuffle: Value 'perhaps' .*Give true or false\."),
        ("keras.backend=mxnet", r"keras\.backend: .*'mxnet'.*\[torch, tensorflow, jax\]"),
        ("framework=torch", r"framework=torch: .*Choose one of keras, lightning; a file framework/torch\.yaml of"),
        ("data.batch_size", r"data\.batch_size: this is not written as Hydra reads it.*Write key=value"),
    ],
)
def test_a_choice_that_is_not_there_is_told_in_one_line(override, message):
    schemas.register()
    with (
        initialize_config_module("fileset_integrations.conf", version_base="1.3"),
        pytest.raises(HydraException) as caught,
    ):
        compose("train", [override])

    told = mistakes.explain(caught.value)

    assert re.search(message, told) and "\n" not in told, told


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batchsize=3"], r"data\.batchsize: there is no such key\. Did you mean data\.batch_size\?"),
        (["data.batch_size=oops"], r"data\.batch_size: Value 'oops' .*Give a whole number\."),
        (["data=flight"], r"data=flight: there is no such option\. Did you mean flights\? Choose one of digits, fli"),
        (["model.lr=0.1,0.2"], r"model\.lr=0\.1,0\.2: several values are a sweep; add -m\."),
        (["source=s3"], r"The config has no value for source\.location\. Set it: source\.location=\.\.\."),
        (["columns.label=z"], r"'z'.*Columns: i, a, b, y, c"),
        (["seed=-1"], r"seed is -1; it must lie in \[0, 2\*\*32\)"),
        (["model.lr=-1"], r"model\.lr is -1\.0.*must be > 0"),
        (["model.dropout=1"], r"model\.dropout is 1\.0; it must lie in \[0, 1\)"),
        (["data.batch_size=0"], r"batch_size"),
        (["+model.learning_rate=1"], r"model\.learning_rate: there is no such key"),
        (["+trainer.epochs=1"], r"trainer\.epochs: there is no such key.*max_epochs"),
        (["model._target_=no.where"], r"model\._target_ is no\.where, which cannot be imported"),
        (["logger=csv", "logger.csv._target_=no.where"], r"logger\.csv\._target_ is no\.where, which cannot be"),
        (["ckpt_path=no.ckpt"], r"ckpt_path=no\.ckpt: there is no such file"),
        (["filesets.connection.database=no.db"], r"filesets\.connection\.database=no\.db: DuckDB cannot open it"),
        (["-m", "model.lr=0.1,oops"], r"model\.lr: Value 'oops'.*Give a number"),
        (["-m", "model.lr=interval(0,1)"], r"model\.lr=interval\(0,1\): a grid takes values.*add hydra/sweeper=study"),
        (["+batch_size=64"], r"batch_size: nothing in the config reads this key\. Did you mean data\.batch_size\?"),
        (["~sede"], r"~sede: there is no such key.*--cfg job"),
        (["logger=null"], r"logger=null: this is no option of the group\. Choose one of csv, mlflow, none, tensor"),
        (["trainer.devices=two"], r"Lightning's Trainer refuses the keys under `trainer`: `devices`"),
        (["callbacks=learning_rate"], r"Lightning refuses what the config combines: .*LearningRateMonitor.*no logger"),
        (["data.transform=os.path"], r"transform='os\.path': pass a function"),
        (["data.cache_bytes=0"], r"cache_bytes=0: pass the most bytes"),
        (["torch_threads=0"], r"torch_threads is 0; it must be at least 1, or null"),
        (["model.lr=${nope}"], r"model\.lr: Interpolation key 'nope' not found\. Write the whole path"),
        (["model.lr=${oc.env:NOT_THERE}"], r"model\.lr: the environment has no NOT_THERE\. Set it, or give.*,VALUE}"),
        (["model.lr=???"], r"The config has no value for model\.lr\. Set it: model\.lr=\.\.\."),
        (["task_name=null"], r"task_name: .*It cannot be null\."),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_what_would_do(folder, overrides, message):
    ended = fileset_train(folder, *TINY, *overrides)

    assert ended.status == 1
    [line] = [line for line in ended.err.splitlines() if "_pytree.py" not in line]  # a warning of Lightning's
    assert re.search(message, line), line


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()

    ended = fileset_train(tmp_path, *TINY, "paths.root_dir=file")

    assert ended.status == 1
    assert re.match(r"hydra\.run\.dir is file/logs/.* but \S+/file is no folder .*Set paths\.root_dir", ended.err)


def test_a_wrong_key_in_a_file_of_ones_own_is_told_with_the_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer:\n  max_epoch: 3\n")

    ended = fileset_train(tmp_path, "--config-dir=.", "experiment=mine")

    assert ended.status == 1
    [line] = ended.err.splitlines()
    assert re.match(
        r"In 'experiment/mine': trainer\.max_epoch: there is no such key\. Did you mean trainer\.max_ep", line
    )


SECRET = "hunter2-" + "x" * 8


@pytest.mark.parametrize(
    "overrides",
    [
        [f"+source.password={SECRET}"],
        [f"+source.storage_options.secret={SECRET}"],
        [f"+hydra.job.env_set.SOME_TOKEN={SECRET}"],
        [f"source.location=s3://me:{SECRET}@bucket/x"],
        [f"source.location='s3://bucket/x?sig={SECRET}'"],
        [f"data.val='https://host/sets/x?a=b&access_key={SECRET}'"],
        ["-m", f"+source.storage_options.token=a,{SECRET}"],
    ],
)
def test_a_secret_is_refused_before_anything_is_written(tmp_path, overrides):
    ended = fileset_train(tmp_path, *TINY, *overrides)

    assert ended.status == 1
    [line] = ended.err.splitlines()
    key = overrides[-1].lstrip("+").partition("=")[0]
    assert line.startswith(f"{key} ") and "environment" in line
    assert SECRET not in ended.err + ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "harmless",
    [
        {"columns": {"features": {"x": {"tokenizer": "builtins:list", "length": 4}}}},
        {"logger": {"api_key": "${oc.env:KEY}"}},
        {"source": {"password": None, "location": "s3://bucket/a@b"}},
        {"source": {"location": "https://host:443/a?version=3"}},
        {"filesets": {"sql": {"q": "SELECT secret, token FROM t WHERE password = 'x' AND pwd = token"}}},
    ],
)
def test_what_only_looks_like_a_secret_may_stay(harmless):
    mistakes.refuse_secrets(OmegaConf.create(harmless))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"source": {"storage_options": {"key": SECRET}}}, "source.storage_options.key"),
        ({"source": {"storage_options": {"account_key": SECRET}}}, "source.storage_options.account_key"),
        ({"data": {"train": ["s3://a/b", f"s3://me:{SECRET}@a/b"]}}, "data.train"),
        ({"source": {"location": f"https://host/a?X-Amz-Signature={SECRET}"}}, "source.location"),
        ({"filesets": {"sql": {"q": f"FROM postgres_scan('host=a password={SECRET}', 't')"}}}, "filesets.sql.q"),
        ({"filesets": {"sql": {"q": f"CREATE SECRET (TYPE s3, SECRET '{SECRET}')"}}}, "filesets.sql.q"),
        ({"logger": {"mlflow": {"pwd": SECRET}}}, "logger.mlflow.pwd"),
    ],
)
def test_a_secret_is_found_by_its_key_and_in_the_text_of_a_url_or_a_query(config, key):
    with pytest.raises(SpecError) as caught:
        mistakes.refuse_secrets(OmegaConf.create(config))

    assert str(caught.value).startswith(f"{key} ") and SECRET not in str(caught.value)


@pytest.mark.parametrize("override", [f"source.location=s3://b/x?token={SECRET}", f"+source.password={{{SECRET}}}"])
def test_a_secret_that_is_not_even_parsed_is_not_told_again(override, tmp_path):
    ended = fileset_train(tmp_path, override)

    assert ended.status == 1 and "=***: this is not written as Hydra reads it." in ended.err
    assert SECRET not in ended.err + ended.out


def test_a_secret_in_a_list_is_found():
    with pytest.raises(SpecError, match=r"^a\.0\.password holds a secret"):
        mistakes.refuse_secrets(OmegaConf.create({"a": [{"password": "x"}]}))


def test_what_is_no_mistake_of_the_users_keeps_its_trace():
    assert mistakes.explain(ZeroDivisionError()) is None
    with pytest.raises(ZeroDivisionError), mistakes.in_one_line():
        raise ZeroDivisionError


def test_whole_traces_are_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    assert mistakes.asked_for_all()
    with pytest.raises(HydraException), mistakes.in_one_line():
        raise HydraException("x")


def test_processes_that_are_started_meanwhile_tell_in_one_line_too(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    program = "from fileset_integrations import mistakes; print(mistakes.asked_for_all())"

    with mistakes.in_one_line():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "False"
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_ctrl_c_outside_of_the_training_ends_without_a_trace(folder, monkeypatch):
    def interrupted(config):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "make_filesets", interrupted)

    ended = fileset_train(folder, *TINY)

    assert (ended.status, ended.err) == (130, "")
