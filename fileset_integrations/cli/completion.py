"""What a shell completes, found without what reads data: nobody waits for that at a press of a key."""

from __future__ import annotations

from pathlib import Path


def local_names(location: str) -> list[str]:
    """Names of the FileSets in a directory; none of what is no directory."""
    try:
        return sorted(path.parent.name for path in Path(location).glob("*/manifest") if path.parent.name[0] != ".")
    except (OSError, ValueError):
        return []


def complete_fileset(incomplete: str) -> list[str]:
    """FileSets in directories that begin so; a shell completes directories by itself."""
    parent, slash, name = incomplete.rpartition("/")
    return [f"{parent}{slash}{one}" for one in local_names(parent + slash or ".") if one.startswith(name)]
