"""Names of emoji in 14 languages, as a DuckDB table: short texts of which each one's language is known.

The names are those of Unicode's Common Locale Data Repository, as the package emoji (BSD licence) ships them. Install
it with the extra `recipes`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from fileset_integrations.tasks.packages import package_folder

_PACKAGE = "emoji"
_LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")


def data_dir() -> Path:
    """Folder of the package's JSON files.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    return package_folder(_PACKAGE, "The names of emoji are") / "unicode_codes"


def connect() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB connection with a table of VARCHARs, names(emoji, language, name), and its BIGINT status.

    A row is one emoji's name in one language, written as people write it: "pferd", not ":pferd:" as in the package;
    lower case throughout, for only the English names have capitals. `language` is an ISO 639-1 code. `status` is the
    package's: 2 is a complete emoji, others are parts and other spellings of those.

    Raises:
        MissingDependencyError: emoji is not installed.
    """
    folder = data_dir()
    emoji: dict[str, dict[str, Any]] = _read(folder / "emoji.json")
    names = {"en": {one: facts["en"] for one, facts in emoji.items()}}
    names.update((code, _read(folder / f"emoji_{code}.json")) for code in _LANGUAGES if code != "en")
    rows = [(one, code, name) for code in _LANGUAGES for one, name in names[code].items()]
    table = pa.table(
        {
            "emoji": pa.array([one for one, _, _ in rows], pa.string()),
            "status": pa.array([emoji[one]["status"] for one, _, _ in rows], pa.int64()),
            "language": pa.array([code for _, code, _ in rows], pa.string()),
            "name": pa.array([name.strip(":").replace("_", " ").lower() for _, _, name in rows], pa.string()),
        }
    )
    connection = duckdb.connect()
    connection.register("names", table)
    return connection


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
