"""Snowflake connections: whose they are, where they may be used, and that no secret gets out."""

import os
import pickle
import signal
import types
from pathlib import Path

import pytest

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import (
    FileSetError,
    FileSetLocationError,
    SnowflakeError,
    SpecError,
)
from fileset_integrations.storage.connecting import SnowflakeSession, refuse_secrets, session
from fileset_integrations.storage.fetching import Fetcher
from fileset_integrations.storage.stage import StageStorage
from tests.support.data import numbered
from tests.support.snowflake_server import MARK, PASSWORD
from tests.support.staged import PROFILE, STAGE, load_numbers, staged_numbers

PLACE = {"target_stage_loc": f"{STAGE}/sets", "name": "numbers"}


def test_by_the_users_own_connection_which_stays_open(snowflake_server, stage, snowflake_connection, cache):
    staged_numbers(snowflake_server, [5])

    fs = FileSet(sf_connection=snowflake_connection, **PLACE)

    assert fs.num_rows == 5
    del fs
    assert snowflake_connection.cursor().execute("SELECT 1").fetchall() == [(1,)]


def test_by_a_snowpark_sessions_connection(snowflake_server, stage, snowflake_connection, cache):
    load_numbers(snowflake_server, 30)
    snowpark = types.SimpleNamespace(connection=snowflake_connection)

    fs = FileSet.make(snowpark_session=snowpark, query="SELECT * FROM DB1.S1.NUMBERS", **PLACE)

    assert fs.num_rows == 30
    with pytest.raises(SpecError, match="without a connection"):
        FileSet(snowpark_session=object(), **PLACE)


def test_by_the_default_profile_where_nothing_is_said(snowflake_server, stage, cache, monkeypatch, tmp_path):
    staged_numbers(snowflake_server, [5])
    snowflake_server.write_profile(tmp_path, "mine")
    monkeypatch.setenv("SNOWFLAKE_HOME", str(tmp_path))
    monkeypatch.setenv("SNOWFLAKE_DEFAULT_CONNECTION_NAME", "mine")

    assert FileSet(**PLACE).num_rows == 5


def test_by_the_profile_that_a_text_names_wherever_a_text_is_taken(snowflake_server, stage, cache, tmp_path):
    staged_numbers(snowflake_server, [5, 5])
    here = numbered(tmp_path, [3])
    text = f"{STAGE}/sets/numbers?connection_name={PROFILE}"  # there is no default profile

    assert FileSet.open(text).num_rows == 10
    assert FileSetReader(text, batch_size=5).fileset.name == "numbers"
    both = FileSetReader([text, here], batch_size=13, drop_last_batch=False)
    assert next(iter(both))["id"].tolist() == [*range(10), *range(3)]
    with pytest.raises(FileSetLocationError, match="Cannot connect"):
        FileSet.open(text.partition("?")[0])
    assert FileSet.open(text.partition("?")[0], connection_name=PROFILE).num_rows == 10
    assert FileSet.open(text, connection_name="another").num_rows == 10


@pytest.mark.slow
def test_lightning_takes_such_a_text_and_keeps_it_for_checkpoints(snowflake_server, stage, cache):
    pytest.importorskip("lightning")
    from fileset_integrations.lightning import FileSetDataModule

    staged_numbers(snowflake_server, [5, 5])
    text = f"{STAGE}/sets/numbers?connection_name={PROFILE}"

    data = FileSetDataModule(train=[text], val=[text, text], batch_size=5)
    data.setup()

    assert [len(batch["id"]) for batch in data.train_dataloader()] == [5, 5]
    assert [len(loader) for loader in data.val_dataloader()] == [2, 2]
    again = FileSetDataModule(train=data.hparams["train"], batch_size=5)
    again.setup()
    assert len(again.train_dataloader()) == 2


@pytest.mark.parametrize(
    "option", [f"password={MARK}", f"connection_name=dev&token={MARK}", "connection_name=", "dev", ""]
)
def test_nothing_else_may_follow_the_name_and_none_of_it_is_told(option):
    with pytest.raises(FileSetLocationError, match=r"numbers\?\.\.\.: only \?connection_name=PROFILE") as caught:
        FileSet.open(f"{STAGE}/sets/numbers?{option}")

    assert MARK not in str(caught.value)


def test_a_profile_that_is_not_there_is_named(stage):
    with pytest.raises(FileSetLocationError, match=r"profile 'nowhere'.*connections\.toml"):
        FileSet(connection_name="nowhere", **PLACE)


def test_a_wrong_password_is_not_told(snowflake_server, stage, tmp_path, monkeypatch):
    snowflake_server.write_profile(tmp_path, "wrong", password=f"{MARK}-wrong")
    monkeypatch.setenv("SNOWFLAKE_HOME", str(tmp_path))

    with pytest.raises(FileSetLocationError, match="Cannot connect to Snowflake by the profile 'wrong'") as caught:
        FileSet(connection_name="wrong", **PLACE)

    assert MARK not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sf_connection": object(), "connection_name": "dev"}, "Both"),
        ({"sf_connection": object(), "snowpark_session": object()}, "Both"),
        ({"sf_connection": "snowflake://user:pl4nt3d@account"}, "no Snowflake connection"),
        ({"connection_name": {"password": PASSWORD}}, "connection_name is a dict"),
        ({"verify": "never", "connection_name": "dev"}, "verify='never'"),
    ],
)
def test_what_is_no_connection_is_refused_and_not_shown(arguments, message):
    with pytest.raises(SpecError, match=message) as caught:
        FileSet(**PLACE, **arguments)

    assert MARK not in str(caught.value)


@pytest.mark.parametrize("key", ["password", "token", "private_key", "PASSCODE", "oauth_client_secret"])
def test_settings_that_hold_a_credential_are_refused_by_key(key):
    with pytest.raises(SpecError, match=rf"source\.nested\.{key}.*connections\.toml") as caught:
        refuse_secrets({"location": "@A.B.C", "nested": {key: PASSWORD}}, "source")

    assert MARK not in str(caught.value)
    refuse_secrets({"location": "@A.B.C", key: None}, "source")


def test_nothing_that_is_secret_is_in_reprs_pickles_or_the_manifest(
    snowflake_server, stage, snowflake_connection, cache
):
    load_numbers(snowflake_server, 30)
    query = f"SELECT * FROM (SELECT *, NAME AS PASSWORD FROM DB1.S1.NUMBERS) WHERE PASSWORD <> '{MARK}'"
    for how in ({"sf_connection": snowflake_connection}, {"connection_name": PROFILE}):
        fs = FileSet.make(query=query, if_exists="open", **PLACE, **how)
        fs.to_arrow()

        assert MARK.encode() not in pickle.dumps(fs)
        assert MARK not in repr(fs) + repr(fs._storage.session) + repr(vars(fs._storage))
        assert MARK.encode() not in fs.manifest.to_bytes()


def test_a_users_connection_stays_behind_when_a_fileset_travels(snowflake_server, stage, snowflake_connection, cache):
    staged_numbers(snowflake_server, [5])
    fs = FileSet(sf_connection=snowflake_connection, **PLACE)

    other = pickle.loads(pickle.dumps(fs))

    assert other.num_rows == 5
    with pytest.raises(SpecError, match="connection_name="):
        other.to_arrow()
    fs.pull()
    assert other.to_arrow().num_rows == 5  # from the cache


def test_one_session_serves_all_filesets_of_a_profile(snowflake_server, stage, cache):
    before = snowflake_server.open_sessions()
    filesets = [staged_numbers(snowflake_server, [5], name) for name in ("a", "b", "c")]

    assert session(None, PROFILE) is filesets[0]._storage.session
    assert snowflake_server.open_sessions() <= before + 1


def test_a_session_that_is_over_is_renewed_by_its_profile(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [5])
    fs.to_arrow()
    snowflake_server.expire("sessions")

    assert FileSet(connection_name=PROFILE, **PLACE).num_rows == 5


def in_a_forked_child(work) -> str:
    """What `work` returns, or its error, in a child that was forked now; "hangs" where it takes 20 seconds."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(into, text.encode()[:4000])
        os._exit(0)
    os.close(into)
    os.waitpid(child, 0)
    with os.fdopen(out, "rb") as answer:
        return answer.read().decode() or "hangs"


def test_a_forked_child_is_told_at_once_instead_of_hanging(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [5, 5])
    fs.read_file(0, ["id"])

    assert in_a_forked_child(lambda: fs.read_file(0, ["id"]).num_rows) == "5"  # it is cached
    for work in (
        lambda: fs.read_file(1, ["id"]),
        lambda: FileSet(connection_name=PROFILE, **PLACE),
        lambda: FileSet(connection_name="another", **PLACE),
    ):
        assert "forked" in in_a_forked_child(work) and "fs.pull()" in in_a_forked_child(work)


def refuse_to_connect_elsewhere(monkeypatch) -> None:
    import snowflake.connector

    owner, connect = os.getpid(), snowflake.connector.connect

    def guarded(**options):
        assert os.getpid() == owner, "a child connects to Snowflake"
        return connect(**options)

    monkeypatch.setattr(snowflake.connector, "connect", guarded)


def test_workers_of_lightnings_loader_read_what_the_main_process_fetched(snowflake_server, stage, cache, monkeypatch):
    lightning = pytest.importorskip("fileset_integrations.lightning")
    refuse_to_connect_elsewhere(monkeypatch)
    fs = staged_numbers(snowflake_server, [12] * 6)

    seen = []
    for num_workers in (0, 2):
        dm = lightning.FileSetDataModule(train=fs, batch_size=6, num_workers=num_workers, seed=4)
        dm.setup("fit")
        loader = dm.train_dataloader()
        seen.append([row for batch in loader for row in batch["id"].tolist()])
        loader.close()

    assert seen[0] == seen[1]
    assert sorted(seen[0]) == list(range(72))


@pytest.mark.slow
def test_workers_of_a_plain_loader_read_what_was_pulled_and_say_so_where_it_was_not(
    snowflake_server, stage, cache, monkeypatch
):
    torch_data = pytest.importorskip("torch.utils.data")
    refuse_to_connect_elsewhere(monkeypatch)
    fs = staged_numbers(snowflake_server, [12] * 3)
    loader = torch_data.DataLoader(fs.to_torch_datapipe(batch_size=6), batch_size=None, num_workers=2)

    with pytest.raises(FileSetError, match=r"fs\.pull\(\)"):
        list(loader)

    fs.pull()
    assert [row for batch in loader for row in batch["id"].tolist()] == list(range(36))


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("request_", ["login-request", "query-request"])
def test_a_service_that_is_busy_for_a_moment_is_asked_again(request_, status, snowflake_server, stage, cache):
    staged_numbers(snowflake_server, [5])
    snowflake_server.write_profile(Path(os.environ["SNOWFLAKE_HOME"]), f"busy{status}")
    snowflake_server.fault("status", request=request_, status=status)

    assert FileSet(connection_name=f"busy{status}", **PLACE).to_arrow().num_rows == 5

    assert [one["applied"] for one in snowflake_server.faults()] == [1]


def test_errors_carry_number_state_and_query_id(snowflake_server, stage):
    with pytest.raises(SnowflakeError, match=r"errno 2003, query id [0-9a-f-]{36}") as caught:
        session(None, PROFILE).execute("SELECT * FROM DB1.S1.NONE")

    assert (caught.value.errno, caught.value.sqlstate, caught.value.refused) == (2003, "42S02", True)
    assert caught.value.query_id is not None


def test_a_session_is_shown_without_its_connection(snowflake_connection):
    assert repr(SnowflakeSession(snowflake_connection)) == "SnowflakeSession(<your connection>)"
    assert repr(SnowflakeSession(None, "dev")) == "SnowflakeSession(name='dev')"
    assert {Fetcher.__module__, StageStorage.__module__} == {
        "fileset_integrations.storage.fetching",
        "fileset_integrations.storage.stage",
    }
