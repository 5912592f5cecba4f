"""Commands about the cache directory of this machine: cache ls, cache prune."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fileset_integrations.cli.application import app
from fileset_integrations.cli.output import Json, print_json, print_table, say
from fileset_integrations.cli.sizes import MaxBytes
from fileset_integrations.cli.snapshots import confirmed
from fileset_integrations.errors import SpecError

cache = typer.Typer(no_args_is_help=True, help="What this machine keeps of FileSets; FILESET_CACHE_DIR places it.")
app.add_typer(cache, name="cache")

Folder = Annotated[
    Path | None, typer.Option("--cache-dir", help="The cache directory; FILESET_CACHE_DIR, else the user's, without.")
]

# What lies beside the fetched files and decoded blocks, which are both in `files`: kinds, and where they are.
_REMEMBERED = {
    "fits": ("columns/*", re.compile(r"[0-9a-f]{64}\.json")),
    "rows left by null policies": ("kept/*", re.compile(r"[0-9a-f]{64}\.npz")),
    "digests of fetched files": ("digests/??/*", re.compile("[0-9a-f]{64}")),
    "measured speeds": ("runs/*", re.compile(r"throughput\.jsonl")),
}


@cache.command("ls")
def cache_ls(cache_dir: Folder = None, as_json: Json = False) -> None:
    """List what the cache holds: kind, files, bytes, when one of them was last used."""
    from fileset_integrations.storage.cache import cache_root

    root = cache_root(cache_dir)
    kinds = _kinds(root)
    if as_json:
        print_json({"cache_dir": str(root), "num_bytes": sum(kind["num_bytes"] for kind in kinds), "kinds": kinds})
        return
    print_table(("kind", "files", "bytes", "last used"), ([*kind.values()] for kind in kinds))
    say(f"in {root}")


@cache.command("prune")
def cache_prune(
    max_bytes: MaxBytes = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove all of them, and what was learned of them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")] = False,
    cache_dir: Folder = None,
    as_json: Json = False,
) -> None:
    """Make room: remove what was used longest ago, or all. It is fetched or computed again when it is needed.

    What others are writing stays, and so does what a reader has open, for as long as it has it.
    """
    if everything == (max_bytes is not None):
        raise SpecError("cache prune takes one of --max-bytes SIZE and --all.")
    from fileset_integrations.storage.cache import cache_root, cached_files

    root = cache_root(cache_dir)
    before = _kinds(root)
    if everything:
        confirmed(yes, f"Remove {sum(kind['num_bytes'] for kind in before):,} bytes of what {root} keeps?")
    cached_files(root, 0 if max_bytes is None else max_bytes).trim()
    if everything:
        for _, path in _remembered(root):
            path.unlink(missing_ok=True)
    after = {kind["kind"]: kind for kind in _kinds(root)}
    removed = [
        {
            "kind": kind["kind"],
            "num_files": kind["num_files"] - after.get(kind["kind"], _NOTHING)["num_files"],
            "num_bytes": kind["num_bytes"] - after.get(kind["kind"], _NOTHING)["num_bytes"],
        }
        for kind in before
    ]
    if as_json:
        print_json({"cache_dir": str(root), "removed": removed})
    else:
        print_table(("removed", "files", "bytes"), ([*kind.values()] for kind in removed if kind["num_files"]))


_NOTHING = {"num_files": 0, "num_bytes": 0}


def _kinds(root: Path) -> list[dict[str, Any]]:
    """What there is of each kind."""
    from fileset_integrations.storage.cache import cached_files

    found: dict[str, list[tuple[int, float]]] = {}
    for entry in cached_files(root, None).entries():
        kind = "being written" if not entry.complete else "decoded blocks" if "-" in entry.name else "fetched files"
        found.setdefault(kind, []).append((entry.num_bytes, entry.used_ns / 1e9))
    for kind, path in _remembered(root):
        stat = path.stat()
        found.setdefault(kind, []).append((stat.st_size, stat.st_atime))
    return [
        {
            "kind": kind,
            "num_files": len(files),
            "num_bytes": sum(size for size, _ in files),
            "last_used": datetime.fromtimestamp(max(used for _, used in files), UTC).isoformat(timespec="seconds"),
        }
        for kind, files in found.items()
    ]


def _remembered(root: Path) -> Iterator[tuple[str, Path]]:
    """Kind and path of each file that keeps what was computed; of no other file, whoever put it there."""
    for kind, (places, name) in _REMEMBERED.items():
        for path in root.glob(places):
            if name.fullmatch(path.name):
                yield kind, path
