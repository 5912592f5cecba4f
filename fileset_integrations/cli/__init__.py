"""The `fileset` command: make, look at, check, measure and remove FileSets without writing Python."""

from fileset_integrations.cli import cache, measuring, snapshots
from fileset_integrations.cli.application import app, main

__all__ = ["app", "cache", "main", "measuring", "snapshots"]
