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
├── FileSetExistsError (FileExistsError)      the name is taken
├── FileSetNotFoundError (FileNotFoundError)  nothing complete under that name
├── FileSetCorruptError (OSError)             files or manifest are not what was written
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


class FileSetExistsError(FileSetError, FileExistsError):
    """The name is already taken at that location."""


class FileSetNotFoundError(FileSetError, FileNotFoundError):
    """No complete FileSet, or no Parquet file, at that place."""


class FileSetCorruptError(FileSetError, OSError):
    """A file or manifest is missing, truncated, altered or unreadable."""


class FileSetAlreadyDeletedError(FileSetError, RuntimeError):
    """The FileSet was deleted through this object."""


class FileSetCannotDeleteError(FileSetError, RuntimeError):
    """delete() was refused, or could not remove everything."""


class MissingDependencyError(FileSetError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it."""
