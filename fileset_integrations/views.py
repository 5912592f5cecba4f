"""Views: some rows of a FileSet, or the rows of several, wherever a FileSet is taken. They own no files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import FileSetCannotDeleteError, SchemaMismatchError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.manifest import Manifest
from fileset_integrations.splits import PartRows, Selection, Share, Split
from fileset_integrations.storage.opening import refuse_credentials

if TYPE_CHECKING:
    from fileset_integrations.storage.fetching import Fetcher, ReadAhead, RemoteFile

# What is taken where rows are read: a FileSet, a view, "LOCATION/NAME", or a list of these: their concatenation.
FileSetLike = FileSet | str | Sequence["FileSetLike"]

_MAX_ID = 256  # characters: reader states hold the identity, and are to stay small


def as_fileset(source: object, storage_options: Mapping[str, Any] | None = None) -> FileSet:
    """The FileSet or view that an argument stands for.

    Args:
        source: A FileSet, a view, "LOCATION/NAME", or a list of these: their concatenation, in the list's order.
        storage_options: Options for fsspec, for strings that are URLs.

    Raises:
        SpecError: It is none of these.
        SchemaMismatchError: The FileSets of a list differ in their columns.
        The errors of `FileSet`.
    """
    if isinstance(source, FileSet):
        return source
    if isinstance(source, str):
        return FileSet.open(source, storage_options)
    if not isinstance(source, Sequence):
        raise SpecError(
            f"{source!r} is no FileSet. Open one with FileSet(target_stage_loc=..., name=...); 'LOCATION/NAME', a part "
            "of fs.split(...) and a list of FileSets will do too."
        )
    parts = [as_fileset(one, storage_options) for one in source]
    if not parts:
        raise SpecError("An empty list holds no FileSet. Name at least one in it.")
    return parts[0] if len(parts) == 1 else Concatenation(parts)


def is_fileset_like(source: object) -> bool:
    """Whether `as_fileset` takes an argument, as far as can be told without opening anything.

    Raises:
        FileSetLocationError: A URL in it holds credentials.
    """
    if isinstance(source, str):
        refuse_credentials(source)
    if isinstance(source, FileSet | str):
        return True
    # All of a list are looked at, since whoever refuses it shows it.
    likely = [is_fileset_like(one) for one in source] if isinstance(source, Sequence) else []
    return bool(likely) and all(likely)


def shown(source: Any) -> str | list[Any]:
    """A FileSet, a view, a string or a list of them as text, in which hyperparameters may keep it."""
    if isinstance(source, str):
        return source
    return repr(source) if isinstance(source, FileSet) else [shown(one) for one in source]


class View(FileSet):
    """Rows of one or several FileSets. It is read like a FileSet; its files are not its own."""

    def delete(self) -> NoReturn:
        """Refused: the files belong to the FileSet that this is a view of.

        Raises:
            FileSetCannotDeleteError: Always.
        """
        raise FileSetCannotDeleteError(
            f"{self!r} is a view, whose files are not its own. Delete the FileSet that it is a view of."
        )

    def copy_to(self, location: str | os.PathLike[str], **options: Any) -> NoReturn:
        """Refused: a copy is a snapshot's, under its identity, which a view is not.

        Raises:
            SpecError: Always.
        """
        del location, options
        raise SpecError(f"{self!r} is a view, which is not copied. Copy the FileSets that it is a view of.")

    def split(self, *, seed: int = 0, **shares: Share) -> dict[str, FileSet]:
        """Refused: name all parts in one split of the FileSet itself.

        Raises:
            SpecError: Always.
        """
        del seed, shares
        raise SpecError(
            f"{self!r} is a view, which is not split again. Split the FileSet itself into all parts at once, such as "
            "fs.split(train=0.64, val=0.16, test=0.2)."
        )


class Part(View):
    """One part of `FileSet.split`. Its `manifest`, `files()` and `verify()` are those of the whole FileSet."""

    def __init__(self, whole: FileSet, split: Split, part: str) -> None:
        vars(self).update(vars(whole))
        self._whole, self._split, self._part = whole, split, part

    @cached_property
    def selection(self) -> Selection:
        return PartRows(self._split, self._part, self._manifest.file_rows)

    @property
    def snapshot_id(self) -> str:
        """The whole FileSet's, with part, shares and seed appended."""
        appended = f"{self._part} of {self._split}"
        if len(appended) > _MAX_ID:
            appended = hashlib.sha256(appended.encode()).hexdigest()
        return f"{self._whole.snapshot_id}/{appended}"

    @property
    def null_counts(self) -> Mapping[str, int]:
        # Where the whole has nulls, how many of them are here would have to be counted.
        return {name: 0 for name, count in self._whole.null_counts.items() if not count}

    def _checked(self) -> Manifest:
        return self._whole._checked()

    def with_cache(self, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> FileSet:
        return Part(self._whole.with_cache(cache_dir, cache_bytes), self._split, self._part) if self.fetches else self

    def __repr__(self) -> str:
        return f"{self._whole!r}.split({self._split})[{self._part!r}]"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "selection"}


class Concatenation(View):
    """The rows of several FileSets or views one after another, as a list of them stands for.

    Args:
        parts: The FileSets and views, of one schema.

    Raises:
        SchemaMismatchError: Two of them differ in names, types or order of their columns.
    """

    def __init__(self, parts: Sequence[FileSet]) -> None:
        self._parts = tuple(parts)
        first, *others = parts
        for other in others:
            _check_schema(first, other)
        manifests = [part.manifest for part in parts]
        files = [
            manifest.files.set_column(0, "path", pa.array(part.files(), pa.string()))
            for part, manifest in zip(parts, manifests, strict=True)
        ]
        identities = "\0".join(part.snapshot_id for part in parts)
        self._manifest = Manifest(
            snapshot_id=f"concatenation-{hashlib.sha256(identities.encode()).hexdigest()}",
            files=pa.concat_tables(files),
            schema=first.schema,
        )
        self._starts = np.cumsum([0, *(manifest.files.num_rows for manifest in manifests)])

    @cached_property
    def selection(self) -> Selection | None:
        if all(part.selection is None for part in self._parts):
            return None
        return _JoinedRows(self._parts, self._starts)

    @property
    def name(self) -> str:
        """Names of the FileSets, joined."""
        return "+".join(part.name for part in self._parts)

    @property
    def null_counts(self) -> Mapping[str, int]:
        known = [part.null_counts for part in self._parts]
        return {
            name: sum(counts[name] for counts in known)
            for name in self._manifest.schema.names
            if all(name in counts for counts in known)
        }

    def _checked(self) -> Manifest:
        for part in self._parts:
            part._checked()
        return self._manifest

    def files(self) -> list[str]:
        """Absolute path or URL of every file, those of the first FileSet first."""
        return [file for part in self._parts for file in part.files()]

    @contextmanager
    def _opened(self, file: int, columns: Sequence[str], dictionaries: Sequence[str]) -> Iterator[pq.ParquetFile]:
        part, own = self._part_of(file)
        with self._parts[part]._opened(own, columns, dictionaries) as parquet:
            yield parquet

    @property
    def fetches(self) -> bool:
        """Whether files of any of them are fetched before they are read."""
        return any(part.fetches for part in self._parts)

    def with_cache(self, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> FileSet:
        if not self.fetches:
            return self
        return Concatenation([part.with_cache(cache_dir, cache_bytes) for part in self._parts])

    def read_ahead(self, files: Iterator[int]) -> ReadAhead | None:
        """Begin to fetch files in the order in which they will be read, wherever each lies."""
        if not self.fetches:
            return None
        from fileset_integrations.storage.fetching import read_ahead  # a part of stages, which load when one is opened

        found = (self._fetch_of(file) for file in files)
        return read_ahead(fetch for fetch in found if fetch is not None)

    def _fetch_of(self, file: int) -> tuple[Fetcher, RemoteFile] | None:
        part, own = self._part_of(file)
        return self._parts[part]._fetch_of(own)

    def _part_of(self, file: int) -> tuple[int, int]:
        """Which FileSet a file belongs to, and its number there."""
        part = int(np.searchsorted(self._starts, file, side="right")) - 1
        return part, file - int(self._starts[part])

    def want(self, files: Iterable[int]) -> None:
        wanted: dict[int, list[int]] = {}
        for part, own in map(self._part_of, files):
            wanted.setdefault(part, []).append(own)
        for part, owns in wanted.items():
            self._parts[part].want(owns)

    def fetched(self) -> ReaderStats:
        return sum((part.fetched() for part in self._parts), ReaderStats())

    def pull(self, *, progress: bool = True) -> None:
        """Fetch the files of each."""
        for part in self._parts:
            part.pull(progress=progress)

    def find_problems(self, *, progress: bool = False) -> list[str]:
        """What is wrong with the files of each."""
        return [problem for part in self._parts for problem in part.find_problems(progress=progress)]

    def verify(self) -> None:
        """Verify each FileSet.

        Raises:
            FileSetCorruptError: As of the first that has bad files.
        """
        for part in self._parts:
            part.verify()

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self._parts))}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return Concatenation, (self._parts,)


class _JoinedRows:
    """The rows that several FileSets and views hold of their files, one after another."""

    def __init__(self, parts: Sequence[FileSet], starts: NDArray[np.int64]) -> None:
        self._selections, self._starts = [part.selection for part in parts], starts
        self.rows = np.concatenate(
            [part.manifest.file_rows if part.selection is None else part.selection.rows for part in parts]
        )

    def mask(self, file: int) -> NDArray[np.bool_] | None:
        part = int(np.searchsorted(self._starts, file, side="right")) - 1
        selection = self._selections[part]
        return None if selection is None else selection.mask(file - int(self._starts[part]))


def _check_schema(first: FileSet, other: FileSet) -> None:
    here, there = first.schema, other.schema
    if here.names == there.names and here.types == there.types:
        return
    types = [{name: str(type_) for name, type_ in zip(one.names, one.types, strict=True)} for one in (here, there)]
    names = dict.fromkeys([*here.names, *there.names])
    differing = next((name for name in names if types[0].get(name) != types[1].get(name)), None)
    if differing is None:
        difference = f"The columns of {other!r} come in another order than those of {first!r}"
    else:
        here_type, there_type = (one.get(differing, "missing") for one in types)
        difference = f"Column {differing!r} is {here_type} in {first!r}, but {there_type} in {other!r}"
    raise SchemaMismatchError(
        f"{difference}. FileSets in one list share one schema: make them from queries that give the same columns."
    )
