"""What a snapshot consists of, its identity, and its one-file form.

The manifest is a Parquet file: its rows are the file table, its footer holds the rest as JSON. A table of 1,000,000
files opens in about a second that way (0.7 to 1.0 s on two shared cores), and any Parquet tool can look inside.
A digest over both parts shows when one was altered.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fileset_integrations.errors import FileSetCorruptError
from fileset_integrations.plan import BLOCK_ROWS, BlockTable, cut_blocks

MANIFEST_NAME = "manifest"
FORMAT = 1

_METADATA_KEY, _DIGEST_KEY = b"fileset", b"fileset.digest"
_TABLE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),  # null where nobody has computed it yet
        pa.field("row_groups", pa.list_(pa.int64())),  # rows of each row group; kept where the file has several
    ]
)


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a snapshot.

    Attributes:
        path: Relative to the FileSet's directory, with "/" between parts.
        rows: Rows in the file.
        bytes: Size of the file.
        sha256: Hex digest of its bytes; None where it is not known.
        row_groups: Rows of each row group.
    """

    path: str
    rows: int
    bytes: int
    sha256: str | None
    row_groups: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Manifest:
    """What one snapshot is: its files, its schema, and where it comes from.

    Attributes:
        snapshot_id: Identity of the snapshot; kept by copies.
        files: The file table: path, rows, bytes, sha256, row_groups.
        schema: Arrow schema of the files.
        null_counts: Column name -> nulls in it (in its leaves, for nested columns); absent where unknown.
        query: Text of the query with secrets masked; None where it was not stored.
        query_sha256: Digest of the exact text of the query.
        query_id: The engine's own id of the query, where it has one.
        engine: Name of the engine that ran the query; None for files that others wrote.
        engine_version: Its version.
        shuffle: Whether the rows were shuffled globally before they were written.
        shuffle_key: Columns by which they were.
        seed: Seed of that shuffle.
        reproducible: The same query over the same data gives the same rows in the same files, as far as the engine
            promises it: with a shuffle key.
        created_at: UTC time, ISO 8601.
    """

    snapshot_id: str
    files: pa.Table
    schema: pa.Schema
    null_counts: Mapping[str, int] = field(default_factory=dict)
    query: str | None = None
    query_sha256: str | None = None
    query_id: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    shuffle: bool = False
    shuffle_key: tuple[str, ...] = ()
    seed: int = 0
    reproducible: bool = False
    created_at: str | None = None

    @property
    def num_rows(self) -> int:
        """Rows of all files together."""
        return int(self.file_rows.sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return int(_numbers(self.files["bytes"]).sum())

    @property
    def file_rows(self) -> NDArray[np.int64]:
        """Rows of each file, shape (files,), int64."""
        return _numbers(self.files["rows"])

    @property
    def paths(self) -> list[str]:
        """Relative path of each file, in the snapshot's order."""
        paths: list[str] = self.files["path"].to_pylist()
        return paths

    def blocks(self, block_rows: int = BLOCK_ROWS) -> BlockTable:
        """The snapshot's blocks (see `plan.cut_blocks`)."""
        rows = self.file_rows
        groups = {
            int(file): np.asarray(self.files["row_groups"][int(file)].as_py() or [rows[file]], np.int64)
            for file in np.flatnonzero(rows > block_rows)
        }
        return cut_blocks(rows, groups, block_rows)

    def to_bytes(self) -> bytes:
        """The manifest as the bytes of its file."""
        facts: dict[str, Any] = {
            "format": FORMAT,
            "schema": self.schema.serialize().to_pybytes().hex(),
            "columns": {name: str(type_) for name, type_ in zip(self.schema.names, self.schema.types, strict=True)},
            **{name: getattr(self, name) for name in _FACTS},
        }
        text = json.dumps(facts, sort_keys=True).encode()
        metadata = {_METADATA_KEY: text, _DIGEST_KEY: _digest(self.files, text).encode()}
        sink = io.BytesIO()
        # Without Arrow's own copy of schema and metadata: readers prefer it to the one that other tools see.
        with pq.ParquetWriter(sink, self.files.schema, compression="zstd", store_schema=False) as writer:
            writer.write_table(self.files)
            writer.add_key_value_metadata(metadata)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Read a manifest's file.

        Args:
            data: The bytes of the file.
            where: Its path, for the error.

        Raises:
            FileSetCorruptError: The bytes are not what `to_bytes` wrote, or name files outside the FileSet.
        """
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            # On this thread: a process that ends while one of Arrow's lets go of Python's bytes is aborted (Arrow 26).
            table, metadata = file.read(use_threads=False), file.metadata.metadata or {}
            text = metadata[_METADATA_KEY]
            facts = json.loads(text)
            files = table.replace_schema_metadata(None).cast(_TABLE_SCHEMA)
            if metadata[_DIGEST_KEY].decode() != _digest(files, text):
                raise ValueError("its digest does not fit its content")
            if facts["format"] != FORMAT:
                raise ValueError(f"it has format {facts['format']!r}, this version reads format {FORMAT}")
            schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(facts["schema"])))
            manifest = cls(files=files, schema=schema, **{name: facts[name] for name in _FACTS})
        except (pa.ArrowException, ValueError, KeyError, TypeError, UnicodeDecodeError, OSError) as error:
            raise FileSetCorruptError(
                f"{where}: the manifest cannot be read ({error}). Make the FileSet again, or copy it again."
            ) from error
        # Arrow looks at all paths at once and leaves the suspicious few: path by path took a second for 1,000,000.
        suspects = files["path"].filter(pc.match_substring_regex(files["path"], _SUSPECT_PATH)).to_pylist()
        bad = next((path for path in suspects if not is_plain_relative(path)), None)
        if bad is not None:
            raise FileSetCorruptError(
                f"{where}: the manifest lists {bad!r}, which is not a plain path below the FileSet's own directory. "
                "It was altered: make the FileSet again."
            )
        object.__setattr__(manifest, "shuffle_key", tuple(manifest.shuffle_key))
        return manifest


# What stands in the footer's JSON beside the schema, under the attributes' own names.
_FACTS = (
    "snapshot_id",
    "null_counts",
    "query",
    "query_sha256",
    "query_id",
    "engine",
    "engine_version",
    "shuffle",
    "shuffle_key",
    "seed",
    "reproducible",
    "created_at",
)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    # Arrow's own to_numpy() imports pandas where that is installed: longer than opening a FileSet takes, and Ctrl-C at
    # that moment is lost.
    numbers: NDArray[Any] = np.from_dlpack(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
    return numbers


def file_table(files: Sequence[DataFile]) -> pa.Table:
    """The file table of a manifest."""
    columns = [
        [file.path for file in files],
        [file.rows for file in files],
        [file.bytes for file in files],
        [file.sha256 for file in files],
        [list(file.row_groups) if len(file.row_groups) > 1 else None for file in files],
    ]
    return pa.table(
        [pa.array(column, type_) for column, type_ in zip(columns, _TABLE_SCHEMA.types, strict=True)],
        schema=_TABLE_SCHEMA,
    )


def _digest(files: pa.Table, text: bytes) -> str:
    # Over values, not over buffers: these depend on chunking and on what Parquet made of the table.
    digest = hashlib.sha256(text)
    for column in files.columns:
        flat = column.combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.schema([pa.field("c", flat.type)])) as stream:
            stream.write_batch(pa.record_batch([pa.concat_arrays([flat])], names=["c"]))
        digest.update(sink.getvalue())
    return digest.hexdigest()


# Matches at least every path that `is_plain_relative` refuses: a backslash, a colon in the first part, or a part that
# is empty, "." or "..".
_SUSPECT_PATH = r"\\|^[^/]*:|(^|/)\.{0,2}(/|$)"


def is_plain_relative(path: str) -> bool:
    """Whether `path` stays below the directory it is relative to: no root, drive, "..", "." or backslash."""
    parts = path.split("/")
    return bool(path) and "\\" not in path and ":" not in parts[0] and not {"", ".", ".."} & set(parts)


def natural_key(path: str) -> tuple[Any, ...]:
    """Sort key of a relative path under which data_2 comes before data_10."""
    pieces = re.split(r"(\d+)", PurePosixPath(path).as_posix())
    # Numbers sit at the odd places of every split, so that a number is only ever compared with a number. The path
    # itself decides between "01" and "1".
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(pieces)), path


_URL_QUERY = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"?]*)\?[^\s'\"]*")
_URL_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"/@]+@")
# Quoted names and comments are matched so that their quotes open no literal.
_TOKEN = re.compile(
    r"""(?P<literal>'(?:[^']|'')*(?:'|$)|(?P<tag>\$\w*\$).*?(?:(?P=tag)|$))|"[^"]*"|--[^\n]*|/\*.*?\*/""", re.DOTALL
)
_BEFORE_SECRET = re.compile(
    r"(?:password|passwd|pwd|token|secret|key)\w*[\"'\]]?\s*(?:=>|:=|!=|<>|==|[=:]|IN)?[\s(]*E?$", re.IGNORECASE
)
# Within a connection string: password=..., AccountKey=...; not "a.key = b.key".
_SECRET_SETTING = re.compile(
    r"(\w*(?:password|passwd|pwd|token|secret)\w*\s*=\s*|\w+key=)(?=[^\s'\",;&)>=])[^\s'\",;&)]+", re.IGNORECASE
)


def mask_secrets(query: str) -> str:
    """The query without credentials, to be shown.

    *** stands in place of URL query strings, users in URLs, the literals after password, token, secret or key, and
    what follows password= and the like within a connection string.
    """
    query = _URL_USER.sub(r"\1***@", _URL_QUERY.sub(r"\1?***", query))
    shown: list[str] = []
    end, secret = 0, False
    for token in _TOKEN.finditer(query):
        if token["literal"] is None:
            continue
        between = query[end : token.start()]
        in_list = secret and between.strip() == ","  # token IN ('...', '...')
        secret = in_list or _BEFORE_SECRET.search(query[: token.start()][-200:]) is not None
        shown += (between, "'***'" if secret else token[0])
        end = token.end()
    return _SECRET_SETTING.sub(r"\1***", "".join((*shown, query[end:])))
