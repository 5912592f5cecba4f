"""The application: what ends with which exit code, how errors are said, and what stops a command half-way.

Nothing here or at the top of the commands' modules imports what reads data: `fileset --help`, the completion of a
shell and a mistake in an option take no longer than typer does.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fileset_integrations import errors

OK, FAILED, USAGE, NOT_FOUND, EXISTS, DAMAGED, REFUSED_QUERY, REMOTE, MISSING = range(9)
INTERRUPTED, PIPE_CLOSED = 128 + signal.SIGINT, 128 + signal.SIGPIPE

EXIT_CODES = {
    OK: "done",
    FAILED: "failed for another reason than those below; or answered with no",
    USAGE: "a wrong option, argument or value",
    NOT_FOUND: "there is no such FileSet, file or place",
    EXISTS: "the name is taken",
    DAMAGED: "files are not what was written",
    REFUSED_QUERY: "the query is not one SELECT, or failed",
    REMOTE: "Snowflake or the network refused or failed",
    MISSING: "an optional package is missing; the message names the extra that brings it",
    INTERRUPTED: "stopped by Ctrl-C; nothing is left half-written",
    PIPE_CLOSED: "whoever read the output went away",
    128 + signal.SIGTERM: "stopped by a signal; nothing is left half-written",
}

# The first that fits counts.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.FileSetNotFoundError, NOT_FOUND),
    (errors.StageNotFoundError, NOT_FOUND),
    (errors.FileSetExistsError, EXISTS),
    (errors.FileSetCorruptError, DAMAGED),
    (errors.QueryError, REFUSED_QUERY),
    (errors.SnowflakeError, REMOTE),
    (errors.FileSetFetchError, REMOTE),
    (errors.MissingDependencyError, MISSING),
    (errors.SpecError, USAGE),
    (errors.ColumnError, USAGE),
    (FileNotFoundError, NOT_FOUND),
)

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_stopped: list[int] = []  # signals that this process was stopped by
_to_the_end: list[bool] = []  # not empty: they wait
_LOOK_AGAIN_S = 0.25


class Application(TyperGroup):
    """The group of all commands: turns what goes wrong in one into a line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command and end the process with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        # Wherever it stands: it is thought of when a command has failed, and then put at its end.
        end = arguments.index("--") if "--" in arguments else len(arguments)
        debug = "--debug" in arguments[:end]
        arguments = [one for place, one in enumerate(arguments) if one != "--debug" or place >= end]
        try:
            code = super().main(arguments, *rest, **{**extra, "standalone_mode": False})
        except Exception as error:
            if debug:
                traceback.print_exc()
            code, text = explained(error)
            if _stopped:  # what the handler raised was swallowed on its way, and this is what came of it
                code = 128 + _stopped[0]
            else:
                print(f"fileset: {text}", file=sys.stderr)
        finally:
            if _stopped:
                signal.setitimer(signal.ITIMER_REAL, 0)  # see `_raise_stop`
        sys.exit(code if isinstance(code, int) else OK)

    def invoke(self, ctx: Any) -> Any:
        """Run a command to the end of what it prints."""
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
            return value
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes at exit
            raise typer.Exit(PIPE_CLOSED) from None


def explained(error: Exception) -> tuple[int, str]:
    """Exit code of an error, and what is said of it in one line."""
    text = " ".join(" ".join([_message(error), *getattr(error, "__notes__", [])]).split())
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, text
    if isinstance(error, typer.Abort):
        return FAILED, "not done; nothing has changed"
    if hasattr(error, "format_message"):  # typer's own, of wrong options
        where = getattr(getattr(error, "ctx", None), "command_path", "fileset")
        return USAGE, f"{text} ({where} --help says more)"
    if isinstance(error, errors.FileSetError | OSError):
        return FAILED, text
    return FAILED, f"{type(error).__name__}: {text} (a mistake of this program's: --debug shows where)"


def _message(error: Exception) -> str:
    if hasattr(error, "format_message"):
        return str(error.format_message())
    if isinstance(error, OSError) and not isinstance(error, errors.FileSetError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


app = typer.Typer(
    cls=Application,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)


def _version(wanted: bool) -> None:
    if wanted:
        from fileset_integrations import __version__

        typer.echo(f"fileset {__version__}")
        raise typer.Exit


@app.callback()
def fileset(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole trace of an error; may stand after the command too.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """FileSets: immutable snapshots of SQL queries' results, as Parquet files under one name.

    LOCATION is a directory, a URL such as s3://bucket/dir, or @database.schema.stage/dir in Snowflake. Where
    LOCATION/NAME is left out, it is read from standard input: fileset make data sales < q.sql | fileset info --json
    """
    del debug, version


def run() -> None:
    """Run the command that the process was started with, until it ends or is stopped by a signal."""
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _stop)
    app(prog_name="fileset")


def _stop(number: int, frame: object) -> None:
    # As an exception, so that whatever is half-written is removed on its way.
    _stopped.append(number)
    if not _to_the_end:
        _raise_stop()


def _raise_stop() -> NoReturn:
    # Where the exception comes up while a library calls back, such as Snowflake's connector to log, it is swallowed. So
    # the handler looks again, and raises another one unless an exception is being handled: what is half-written is
    # removed on its way then.
    signal.signal(signal.SIGALRM, _look_again)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_S)
    raise KeyboardInterrupt if _stopped[0] == signal.SIGINT else SystemExit(128 + _stopped[0])


def _look_again(number: int, frame: object) -> None:
    if sys.exc_info()[1] is None:
        _raise_stop()
    signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN_S)


@contextmanager
def to_the_end() -> Iterator[None]:
    """What is done while this is held is short, and not to be left half-done: signals stop the command after it."""
    _to_the_end.append(True)
    try:
        yield
    finally:
        _to_the_end.pop()
    if _stopped:
        _raise_stop()
