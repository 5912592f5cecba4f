"""Mistakes in a config, told in one line: which key, which value, and what would do.

Hydra's own messages take several lines, and their advice (append the key with "+") does not help here, since the key
would reach a constructor that has no such argument.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra.errors import (
    CompactHydraException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from fileset_integrations.errors import FileSetError, SpecError, how_to_install

_FULL = "HYDRA_FULL_ERROR"
# Says that it was `in_one_line` that set the above: processes that this one starts inherit both.
_SHORT = "FILESET_SHORT_ERRORS"

_SECRET_KEY = re.compile(
    r"passw(or)?d|passphrase|passcode|secret|private_key|credential|(^|_)(auth|access|api)?_?token$|api_?key$", re.I
)
_LAUNCHERS_OF_SWEEP = ("joblib", "submitit_local", "submitit_slurm")
_EXTRA_OF = {  # of packages that configs name in a _target_
    **dict.fromkeys(("lightning", "torch", "torchmetrics"), "lightning"),
    **dict.fromkeys(("tensorboard", "sklearn", "matplotlib"), "recipes"),
    **{name: name for name in ("jax", "keras", "ray", "tensorflow")},
    "optuna": "sweep",
}
_SECRET_IN_URL = re.compile(r"://[^/@:\s]+:[^/@\s]+@")
_WHAT_WOULD_DO = {
    "Integer": "Give a whole number.",
    "Float": "Give a number.",
    "Boolean": "Give true or false.",
    "valid bool": "Give true or false.",
    "expected one of": "Choose one of these.",
    "DictConfig": "Give keys with values: {key:value}.",
    "ListConfig": "Give a list: [first,second].",
}


class TrainError(CompactHydraException):
    """A user's mistake, in one message."""


def explain(error: BaseException) -> str | None:
    """What a user did wrong, in one line; None where the error is no mistake in a config or a command line."""
    if isinstance(error, TrainError):
        text: str | None = str(error)
    elif isinstance(error, FileSetError):
        text = " ".join([str(error), *getattr(error, "__notes__", [])])
    elif isinstance(error, MissingConfigException):
        text = _no_such_option(error)
    elif isinstance(error, OverrideParseException):
        text = (
            f"{error.override}: this is not written as Hydra reads it ({str(error).splitlines()[0]}). Write key=value, "
            "and put quotes around a value that holds spaces or commas: 'key=\"a, b\"'."
        )
    elif isinstance(error, InstantiationException):
        text = _not_made(error)
    elif isinstance(error, OmegaConfBaseException):
        text = _of_omegaconf(error)
    elif isinstance(error, HydraException):
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            text = _of_omegaconf(cause)
        elif ambiguous := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
            text = (
                f"{ambiguous[1]}: several values are a sweep; add -m. A list is written [first,second], and a text "
                "with a comma in quotes: 'key=\"a, b\"'."
            )
        else:
            text = str(error)
    else:
        text = None
    return None if text is None else " ".join(text.split())


def _no_such_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return str(error)
    if group == "hydra/launcher" and option in _LAUNCHERS_OF_SWEEP:
        return f"{group}={option} is Hydra's plugin of that name, which is not installed. {how_to_install('sweep')}"
    return (
        f"{group}={option}: there is no such option.{_nearest(option, error.options)} Choose one of "
        f"{', '.join(sorted(error.options))}; a file {group}/{option}.yaml of your own is found with "
        "--config-dir FOLDER."
    )


def _not_made(error: InstantiationException) -> str:
    cause = error.__cause__
    if isinstance(cause, FileSetError):
        return explain(cause) or ""
    key = re.search(r"full_key: (\S+)", str(error))
    where = key[1] if key else "the config"
    if isinstance(cause, ImportError):
        module = re.search(r"No module named '(\w+)", str(cause))
        if module and (extra := _EXTRA_OF.get(module[1])):
            return f"{where} needs {module[1]}, which is not installed. {how_to_install(extra)}"
        return (
            f"{where}: {' '.join(str(cause).split())}. Install what it names, or choose another option of this group."
        )
    what = str(error).split("\n")[0] if cause is None else f"{type(cause).__name__}: {cause}"
    return f"{where} cannot be made ({what}). Check its _target_ and its keys; {_FULL}=1 shows where it failed."


def _of_omegaconf(error: OmegaConfBaseException) -> str:
    missing = re.search(r"[Mm]issing mandatory value: (\S+)", str(error))
    if isinstance(error, MissingMandatoryValue) or missing:
        key = missing[1] if missing else error.full_key
        return f"The config has no value for {key}. Set it: {key}=..."
    key = error.full_key or str(error.key)
    message = str(error.msg or error).splitlines()[0]
    if isinstance(error, ConfigKeyError | AttributeError) and error.parent_node is not None:
        parent = error.parent_node
        known = [] if parent._is_none() or parent._is_missing() else [str(name) for name in parent]
        return no_such_key(key, [name for name in known if not name.startswith("_") and name != "hydra"])
    if isinstance(error, ValidationError):
        would_do = next((text for name, text in _WHAT_WOULD_DO.items() if name in message), "")
        return f"{key}: {message.rstrip('.')}. {would_do or 'Give a value of that type.'}"
    return f"{key}: {message}"


def no_such_key(key: str, known: Sequence[str]) -> str:
    """What is said of a key that nothing takes.

    Args:
        key: With all that is above it.
        known: Names that would do in its place.
    """
    above = key.rpartition(".")[0]
    nearest = _nearest(key.rpartition(".")[2], known, above)
    shown = f" The keys of {above or 'the config'} are {', '.join(known)}." if known else ""
    return f"{key}: there is no such key.{nearest}{shown if not nearest or len(known) <= 20 else ''}"


def _nearest(name: str, known: Iterable[str], above: str = "") -> str:
    found = difflib.get_close_matches(name, list(known), n=2)
    return f" Did you mean {' or '.join(f'{above}.{one}'.lstrip('.') for one in found)}?" if found else ""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Around Hydra's main: a mistake ends the process with one line and status 1.

    HYDRA_FULL_ERROR=1 in the environment shows the whole trace, as Hydra's users know it.
    """
    if asked_for_all():
        yield
        return
    before = {name: os.environ.get(name) for name in (_FULL, _SHORT)}
    # With it Hydra raises what it would otherwise print in its own way.
    os.environ.update({_FULL: "1", _SHORT: "1"})
    try:
        yield
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        leave(text)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def asked_for_all() -> bool:
    """Whether the user wants whole traces."""
    return os.environ.get(_FULL) == "1" and _SHORT not in os.environ


def leave(text: str) -> NoReturn:
    """End the process with one line on stderr and status 1."""
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(1)


class Checks(Callback):
    """Refuses a config with a secret in it before Hydra writes it to disk."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a single run."""
        _check(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a sweep."""
        _check(config)


def _check(config: DictConfig) -> None:
    try:
        refuse_secrets(config)
    except SpecError as error:
        leave(str(error))  # Hydra turns an exception of a callback into a warning


def refuse_secrets(config: DictConfig) -> None:
    """Refuse a config that holds a password, a token or the like: Hydra writes it into the folder of every run.

    A value that is an interpolation of an environment variable may stay: only the variable's name is written.

    Raises:
        SpecError: Names the key, never the value.
    """
    overrides = OmegaConf.select(config, "hydra.overrides.task") or []
    # Those of a sweep are in no config yet.
    given = dict(str(one).lstrip("+~").partition("=")[::2] for one in overrides)
    for key, value in [*given.items(), *_leaves(config)]:
        inside = isinstance(value, str) and "${" in value
        if inside or value in (None, "", "null", "???"):
            continue
        if _SECRET_KEY.search(key.rpartition(".")[2]):
            raise SpecError(
                f"{key} holds a secret, which would be written into the folder of every run. Leave it out: Snowflake's "
                "lie in connections.toml, under the name that source.connection_name gives; others in the environment, "
                "which a config names as ${oc.env:NAME}."
            )
        if isinstance(value, str) and _SECRET_IN_URL.search(value):
            raise SpecError(
                f"{key} is a URL with a password in it, which would be written into the folder of every run. Leave "
                "user and password out of it, and keep them in the environment or in a profile."
            )


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{key}.{i}" if isinstance(value, Mapping) else key)
    else:
        yield key, node
