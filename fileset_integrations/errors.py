"""Every error that this package raises on purpose.

```
FileSetError
├── SpecError (ValueError)                    a wrong argument: batch size, rank, seed, streams, ...
├── QueryError (ValueError)                   not exactly one SELECT, or the engine refused it
├── ColumnError (ValueError)                  a column that is missing or has no tensor form as asked
│   └── NullValueError                        nulls where the null policy says "error"
├── SchemaMismatchError (ValueError)          files of one FileSet with different schemas
├── StateMismatchError (ValueError)           a reader state from another snapshot, seed, batch size, ...
├── FileSetLocationError (ValueError)         a location that cannot be parsed, read or written
│   ├── StageNotFoundError (OSError)          no such stage, or no right to it
│   └── MoreThanOneQuerySourceError           a directory holds files of several queries, and no manifest
├── FileSetExistsError (FileExistsError)      the name is taken; FileSetExistError is another name of it
├── FileSetNotFoundError (FileNotFoundError)  nothing complete under that name
├── FileSetCorruptError (OSError)             files or manifest are not what was written
│   └── StageFileNotFoundError (FileNotFoundError)  a file that the manifest lists is not in the stage
├── CheckpointError (OSError)                 a folder of a training's state that is damaged, in use, or not one
├── FileSetFetchError (OSError)               a file could not be fetched; what it holds is not in doubt
├── SnowflakeError (OSError)                  Snowflake refused a statement, or its answer was lost
├── FileSetAlreadyDeletedError (RuntimeError) used after delete()
├── FileSetCannotDeleteError (RuntimeError)   delete() refused or failed
└── MissingDependencyError (ImportError)      an optional package; the message names the extra to install
```

Each class also derives from the builtin that a caller would catch. Messages say what, where and how to mend it, and
hold neither row values nor credentials.
"""


class FileSetError(Exception):
    """Root of all errors raised on purpose by this package."""


class SpecError(FileSetError, ValueError):
    """An argument that no FileSet could satisfy: batch size, rank, seed, streams and the like."""


class QueryError(FileSetError, ValueError):
    """The query is not exactly one SELECT, or the engine refused it."""


class ColumnError(FileSetError, ValueError):
    """A column is missing, or has no tensor form in the way it was asked for."""


class NullValueError(ColumnError):
    """A column holds nulls and its null policy is "error"."""


class SchemaMismatchError(FileSetError, ValueError):
    """The files of one FileSet do not share one schema."""


class StateMismatchError(FileSetError, ValueError):
    """A saved reader state belongs to another snapshot, seed, batch size or order."""


class FileSetLocationError(FileSetError, ValueError):
    """A location or name that cannot be parsed, read or written."""


class StageNotFoundError(FileSetLocationError, OSError):
    """There is no such stage, or the role has no right to it."""


class MoreThanOneQuerySourceError(FileSetLocationError):
    """A directory without a manifest holds the files of several queries: which belong together, nobody can say."""


class FileSetExistsError(FileSetError, FileExistsError):
    """The name is already taken at that location."""


FileSetExistError = FileSetExistsError  # as Snowpark ML names it, so that its users' `except` goes on working


class FileSetNotFoundError(FileSetError, FileNotFoundError):
    """No complete FileSet, or no Parquet file, at that place."""


class FileSetCorruptError(FileSetError, OSError):
    """A file or manifest is missing, truncated, altered or unreadable."""


class StageFileNotFoundError(FileSetCorruptError, FileNotFoundError):
    """A file that the manifest lists is not in the stage."""


class CheckpointError(FileSetError, OSError):
    """A folder that should hold a training's state is damaged, used by another training, or holds something else."""


class FileSetFetchError(FileSetError, OSError):
    """A file of a stage or a bucket could not be fetched: the network, the service or the right to it failed."""


class SnowflakeError(FileSetError, OSError):
    """Snowflake refused a statement, or its answer was lost.

    Attributes:
        errno: Snowflake's number of the error; None where there is none.
        sqlstate: The SQL state, likewise.
        query_id: Snowflake's id of the query, likewise.
        refused: Whether Snowflake said so itself. False: the answer was lost, and what became of the statement is not
            known.
    """

    def __init__(
        self,
        message: str,
        errno: int | None = None,
        sqlstate: str | None = None,
        query_id: str | None = None,
        refused: bool = False,
    ) -> None:
        super().__init__(message)
        self.errno, self.sqlstate, self.query_id, self.refused = errno, sqlstate, query_id, refused


class FileSetAlreadyDeletedError(FileSetError, RuntimeError):
    """The FileSet was deleted through this object."""


class FileSetCannotDeleteError(FileSetError, RuntimeError):
    """delete() was refused, or could not remove everything."""


class MissingDependencyError(FileSetError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it."""


def how_to_install(*extras: str) -> str:
    """The command that brings extras, as every `MissingDependencyError` ends with it."""
    return f'Install it with: pip install "fileset-integrations[{",".join(extras)}]"'
