"""Snowflake connections: whose they are, what runs on them, and what their errors say.

The connector starts threads of its own when it is imported, and hangs in a child that was forked afterwards (seen with
5.2). So it is imported when the first statement runs, and only in processes where that is safe.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

from fileset_integrations.errors import (
    FileSetLocationError,
    MissingDependencyError,
    SnowflakeError,
    SpecError,
    how_to_install,
)
from fileset_integrations.manifest import mask_secrets

_T = TypeVar("_T")

QUERY_TAG = "fileset_integrations"

_SECRET = ("password", "passwd", "passcode", "token", "secret", "private_key", "credential")
_forked = False  # after the connector was imported: it would hang here


def _note_fork() -> None:
    global _forked
    _forked = _forked or "snowflake.connector" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement returned.

    Attributes:
        columns: Names of the columns, lower case.
        rows: The rows.
        query_id: Snowflake's id of the query.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    query_id: str | None

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by the names of their columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class SnowflakeSession:
    """A connection that the threads of one process share, made at the first statement.

    Args:
        connection: The user's own, used as it is and never closed.
        name: Name of a profile in connections.toml to connect by; None: the default profile.

    Raises:
        SpecError: Both are given, or one is not of its kind.
    """

    def __init__(self, connection: Any = None, name: str | None = None) -> None:
        if connection is not None and name is not None:
            raise SpecError("Both sf_connection and connection_name are given. Pass one: they may be two accounts.")
        if connection is not None and not callable(getattr(connection, "cursor", None)):
            raise SpecError(
                f"sf_connection is a {type(connection).__name__}, which is no Snowflake connection. Pass what "
                "snowflake.connector.connect(...) returned, or the name of a profile as connection_name=."
            )
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise SpecError(
                f"connection_name is a {type(name).__name__}; pass the name of a profile in connections.toml, which "
                "alone holds user and credentials."
            )
        self.name = name
        self._own = connection is None
        self._connection = connection
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def reopening(self) -> bool:
        """Whether another process can connect in the same way."""
        return self._own

    def __repr__(self) -> str:
        return f"SnowflakeSession(name={self.name!r})" if self._own else "SnowflakeSession(<your connection>)"

    def __reduce__(self) -> tuple[Any, ...]:
        # A connection cannot travel; a name can.
        return (_session_without_connection, ()) if not self._own else (session, (None, self.name))

    def execute(self, sql: str, *, again: bool = False, upload: bytes | None = None) -> Result:
        """Run one statement and fetch all of its rows.

        Args:
            sql: The statement.
            again: It may run twice: where its answer is lost, it does.
            upload: What a PUT is to send.

        Raises:
            SnowflakeError: Snowflake refused it, or its answer was lost.
        """
        try:
            return self._run(lambda cursor: _execute(cursor, sql, upload))
        except SnowflakeError as error:
            if not again or error.refused:
                raise
        return self._run(lambda cursor: _execute(cursor, sql, upload))

    def describe(self, query: str) -> list[Any]:
        """What columns a query returns, as the connector's ResultMetadata; it is compiled, not run.

        Raises:
            SnowflakeError: Snowflake refuses the query.
        """
        return self._run(lambda cursor: _describe(cursor, query))

    def result_of(self, query_id: str) -> Result:
        """What a query that ran earlier returned; waits for it where it still runs.

        Raises:
            SnowflakeError: The query failed, or is not known.
        """

        def fetch(cursor: Any) -> Result:
            cursor.get_results_from_sfqid(query_id)
            return _result(cursor)

        return self._run(fetch)

    def _run(self, work: Callable[[Any], _T]) -> _T:
        connection = self._connected()
        errors = _connector().errors
        failure: SnowflakeError | None = None
        try:
            with connection.cursor() as cursor:
                return work(cursor)
        except errors.Error as error:
            failure = _failure(error)
            if self._own and _is_over(error, connection):
                self._drop(connection)
        # Outside the handler: the connector's error, whose text may hold a presigned URL, is not to hang on to ours.
        raise failure

    def _connected(self) -> Any:
        refuse_in_children(self._pid if self._connection is not None else os.getpid())
        with self._lock:
            if self._connection is None:
                if not self._own:
                    raise _lost_connection()
                self._connection, self._pid = _connect(self.name), os.getpid()
                weakref.finalize(self, _close, self._connection, self._pid)
            return self._connection

    def _drop(self, connection: Any) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None
        _close(connection, self._pid)


_sessions: weakref.WeakValueDictionary[str | None, SnowflakeSession] = weakref.WeakValueDictionary()


def session(connection: Any = None, name: str | None = None) -> SnowflakeSession:
    """The session of a connection; those of one profile share one in a process."""
    if connection is not None or not isinstance(name, str | None):
        return SnowflakeSession(connection, name)
    found = None if _forked else _sessions.get(name)
    if found is None:
        found = _sessions[name] = SnowflakeSession(None, name)
    return found


def session_of(sf_connection: Any, snowpark_session: Any, connection_name: str | None) -> SnowflakeSession | None:
    """The session of what the user passed; None where that is nothing.

    Raises:
        SpecError: Several are given, or one is not of its kind.
    """
    if snowpark_session is not None:
        if sf_connection is not None:
            raise SpecError("Both sf_connection and snowpark_session are given. Pass one of them.")
        sf_connection = getattr(snowpark_session, "connection", None)  # Snowpark's public property
        if sf_connection is None:
            raise SpecError(
                f"snowpark_session is a {type(snowpark_session).__name__} without a connection. Pass a Snowpark "
                "Session, or its connection as sf_connection=."
            )
    if sf_connection is None and connection_name is None:
        return None
    return session(sf_connection, connection_name)


def refuse_secrets(settings: Mapping[Any, Any], where: str) -> None:
    """Refuse settings that hold a credential: they would be printed, logged and stored with every run.

    Raises:
        SpecError: Names the key; never the value.
    """
    for key, value in settings.items():
        if value is not None and any(word in str(key).lower() for word in _SECRET):
            raise SpecError(
                f"{where}.{key} holds a credential, which would be written into the files of every run. Keep it in "
                "connections.toml, under a profile that connection_name names."
            )
        if isinstance(value, Mapping):
            refuse_secrets(value, f"{where}.{key}")


def refuse_in_children(owner: int) -> None:
    """Refuse to touch the connector where it would hang, or where a DataLoader worker would open yet another session.

    Args:
        owner: Process that made the connection.

    Raises:
        SnowflakeError: Says what to do instead.
    """
    torch_data = sys.modules.get("torch.utils.data")  # not imported for this
    worker = torch_data is not None and torch_data.get_worker_info() is not None
    if worker or _forked or owner != os.getpid():
        what = "a DataLoader worker" if worker else "a process that was forked after Snowflake's connector was loaded"
        raise SnowflakeError(
            f"This is {what}, where no connection to Snowflake can be used. Fetch the files before it starts, with "
            "fs.pull() and a cache_bytes= that holds them all; or use num_workers=0, where threads fetch them.",
            refused=True,
        )


def _connector() -> Any:
    try:
        import snowflake.connector
        import snowflake.connector.errors
    except ImportError as error:
        raise MissingDependencyError(
            f"{error}. Snowflake's connector is optional. {how_to_install('snowflake')}"
        ) from error
    return snowflake.connector


def _connect(name: str | None) -> Any:
    connector = _connector()
    failure: str | None = None
    try:
        # Any argument turns the default profile off (seen with 5.2), so it is named; and the connector warns where the
        # last but one is left to it.
        if name is None:
            name = connector.config_manager.CONFIG_MANAGER["default_connection_name"]
        return connector.connect(
            connection_name=name,
            session_parameters={"QUERY_TAG": QUERY_TAG},
            enable_server_session_keep_alive_auto_detection=False,
            auto_cleanup=False,
        )
    except Exception as error:  # the connector's own, its config manager's, or the Rust core's
        failure = mask_secrets(str(error))
    raise FileSetLocationError(
        f"Cannot connect to Snowflake by the profile {name!r}: {failure}. Profiles stand in connections.toml, under "
        "SNOWFLAKE_HOME or ~/.snowflake; pass another connection_name=, or your own sf_connection=."
    )


def _close(connection: Any, owner: int) -> None:
    if os.getpid() == owner:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                connection.close()
            except Exception:  # it is of no use any more, whatever its server says
                return


def _describe(cursor: Any, query: str) -> list[Any]:
    # The public describe() leaves out the dimension of vectors; what connector 4.x and 5.x have for Snowpark has it.
    describe = getattr(cursor, "_describe_internal", cursor.describe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return list(describe(query) or [])


def _execute(cursor: Any, sql: str, upload: bytes | None) -> Result:
    if upload is not None:
        cursor.execute(sql, file_stream=BytesIO(upload))
    else:
        cursor.execute(sql, _statement_params={"QUERY_TAG": QUERY_TAG})
    return _result(cursor)


def _result(cursor: Any) -> Result:
    rows = cursor.fetchall()
    columns = tuple(column.name.lower() for column in cursor.description or ())
    return Result(columns, [tuple(row) for row in rows], cursor.sfqid)


def _failure(error: Any) -> SnowflakeError:
    # `msg` is the server's text alone. Connector 5 repeats number and state in it, hence no number before it.
    text = mask_secrets(str(getattr(error, "msg", "") or error)).strip()
    errno, sqlstate = getattr(error, "errno", None), getattr(error, "sqlstate", None)
    query_id = getattr(error, "sfqid", None)
    errno = errno if isinstance(errno, int) and errno > 0 else None
    said = f"{text} (errno {errno or 'unknown'}, query id {query_id or 'unknown'})"
    return SnowflakeError(said, errno, sqlstate, query_id, _is_refusal(error, errno, sqlstate))


def _is_refusal(error: Any, errno: int | None, sqlstate: str | None) -> bool:
    """Whether Snowflake answered, with "no"; else the answer was lost, and the statement may have run.

    The server's errors have a state, and come as ProgrammingError or one of its kin; errors of the way there have none
    (seen with connector 5.2 against a test server).
    """
    kinds = ("ProgrammingError", "IntegrityError", "DataError", "NotSupportedError")
    return type(error).__name__ in kinds and (errno is None or errno >= 1000 or sqlstate is not None)


def _is_over(error: Any, connection: Any) -> bool:
    """Whether the session has ended, so that only a new connection helps."""
    if type(error).__name__ == "ReauthenticationRequest":
        return True
    return bool(connection.is_closed()) or getattr(error, "errno", None) in (390104, 390111, 390112, 390114, 390195)


def _lost_connection() -> SpecError:
    return SpecError(
        "This FileSet came here by pickle, which leaves its Snowflake connection behind. Open it with "
        "connection_name=: a name travels, and each process connects by it when it needs to."
    )


def _session_without_connection() -> SnowflakeSession:
    made = SnowflakeSession(None, None)
    made._own = False
    return made
