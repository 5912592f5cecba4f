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
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
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
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from fileset_integrations.errors import FileSetError, SpecError, how_to_install
from fileset_integrations.schemas import TrainConf
from fileset_integrations.storage.opening import holds_credentials

_FULL = "HYDRA_FULL_ERROR"
# Says that it was `in_one_line` that set the above: processes that this one starts inherit both.
_SHORT = "FILESET_SHORT_ERRORS"

_SECRET_KEY = re.compile(
    r"passw(or)?d|(^|_)pwd$|passphrase|passcode|secret|private_key|credential|(^|_)(auth|access|api)?_?token$|api_?key$"
    # s3fs has its key as `key`, adlfs its own as `account_key`, `sas_token` or in a `connection_string`.
    r"|account_key$|connection_string$",
    re.I,
)
_SECRET_PATH = re.compile(r"(^|\.)storage_options\.key$")
_SECRET_SETTING = re.compile(
    # of a presigned URL; of a connection string; of SQL
    r"(?<=[?&])[\w-]*(?:sig|signature|token|credential|password|secret|api_?key)=[^&\s'\"]+"
    r"|\b(?:password|passwd|pwd)=(?![\s'\"$])[^\s'\";,)]+"
    r"|\b(?:password|secret)\s+'[^']+'",
    re.I,
)
_LAUNCHERS_OF_SWEEP = ("joblib", "submitit_local", "submitit_slurm")
_EXTRA_OF = {  # of packages that configs name in a _target_
    **dict.fromkeys(("lightning", "torch", "torchmetrics"), "lightning"),
    **dict.fromkeys(("tensorboard", "sklearn", "matplotlib"), "recipes"),
    **{name: name for name in ("jax", "keras", "ray", "tensorflow")},
    "optuna": "sweep",
}
_WHAT_WOULD_DO = {
    "Integer": "Give a whole number.",
    "Float": "Give a number.",
    "Boolean": "Give true or false.",
    "valid bool": "Give true or false.",
    "not Optional": "It cannot be null.",
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
        text = _not_parsed(error)
    elif isinstance(error, InstantiationException):
        text = _not_made(error)
    elif isinstance(error, OmegaConfBaseException):
        text = _of_omegaconf(error)
    elif isinstance(error, HydraException):
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OmegaConfBaseException):
            file = re.match(r"In '[^']*': ", str(error))
            text = (file[0] if file else "") + _of_omegaconf(cause)
        elif absent := re.match(r"Could not delete from config\. '(.*)' does not exist", str(error)):
            text = f"~{absent[1]}: there is no such key, so that it cannot be left out. --cfg job shows those that are."
        elif ambiguous := re.match(r"Ambiguous value for argument '(.*)'", str(error)):
            text = (
                f"{ambiguous[1]}: several values are a sweep; add -m. A list is written [first,second], and a text "
                "with a comma in quotes: 'key=\"a, b\"'."
            )
        elif "does not support sweep type" in str(error):
            text = (
                f"{_argument('interval(')}: a grid takes values (0.1,0.01), range(...) and choice(...). To draw from "
                "an interval, add hydra/sweeper=study, which searches by Optuna."
            )
        elif "Sweeping over Hydra's configuration" in str(error):
            text = (
                f"{str(error).strip()}. Write what is varied as it is on the command line: model.lr='interval(0, 1)'."
            )
        else:
            text = str(error)
    elif isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        text = _no_name_of_an_option()
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


def _no_name_of_an_option() -> str:
    """Hydra does not say of which group."""
    for argument in sys.argv[1:]:
        group, _, value = argument.lstrip("+").partition("=")
        options = [path.name.removesuffix(".yaml") for path in _options(group)]
        if options and value not in options:
            return f"{group}={value}: this is no option of the group. Choose one of {', '.join(sorted(options))}."
    return "A group of the config is given what is no name of an option. Name one: GROUP=OPTION; --help lists them."


def _options(group: str) -> list[Path]:
    folder = Path(str(files("fileset_integrations.conf"))) / group
    return list(folder.glob("*.yaml")) if group else []


def _argument(part: str) -> str:
    """The argument of the command line that holds this."""
    return next((argument for argument in sys.argv[1:] if part in argument), part)


def _not_parsed(error: OverrideParseException) -> str:
    key, _, value = (error.override or "").partition("=")
    why = f" ({str(error).splitlines()[0]})"
    if _is_secret(key.lstrip("+~"), value):
        value, why = "***", ""
    return (
        f"{key}{'=' if value else ''}{value}: this is not written as Hydra reads it{why}. Write key=value, and put "
        "quotes around a value that holds spaces, commas or =: 'key=\"a, b\"'."
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
    if variable := re.search(r"Environment variable '(\w+)' not found", message):
        name = variable[1]
        return (
            f"{key}: the environment has no {name}. Set it, or give a value for its absence: ${{oc.env:{name},VALUE}}."
        )
    if isinstance(error, InterpolationKeyError):
        return f"{key}: {message.rstrip('.')}. Write the whole path of a key: ${{model.lr}}."
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
    """Refuses a config with a secret in it before Hydra writes it to disk, and one that could not be written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a single run."""
        _check(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a sweep."""
        _check(config, "hydra.sweep.dir")


def _check(config: DictConfig, folder_key: str) -> None:
    # Hydra turns an exception of a callback into a warning.
    try:
        refuse_secrets(config)
        refuse_unread(config)
        _refuse_unwritable(Path(str(OmegaConf.select(config, folder_key))), folder_key)
    except (FileSetError, OmegaConfBaseException) as error:
        leave(explain(error) or "")


def given(hydra_config: DictConfig) -> dict[str, str]:
    """The command line's values by key, as they were written: an interpolation may name a secret.

    Args:
        hydra_config: Hydra's own.
    """
    return dict(one.lstrip("+~").partition("=")[::2] for one in _overrides(hydra_config))


def _overrides(hydra_config: DictConfig | None) -> list[str]:
    # Not through OmegaConf's own access, which would follow interpolations.
    plain: Any = OmegaConf.to_container(hydra_config, resolve=False) if hydra_config is not None else {}
    return [str(one) for one in (plain.get("overrides") or {}).get("task") or []]


def _hydra_of(config: DictConfig) -> DictConfig | None:
    return config.hydra if "hydra" in config else None


def refuse_unread(config: DictConfig) -> None:
    """Refuse a key that was added to the top of the config, and that nothing in it reads.

    Raises:
        SpecError: Names the key, and those that end as it does.
    """
    known = {field.name for field in fields(TrainConf)}
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    text = OmegaConf.to_yaml(own)
    choices = OmegaConf.select(config, "hydra.runtime.choices") or {}
    for override in _overrides(_hydra_of(config)):
        key = override.lstrip("+").partition("=")[0]
        top = key.partition(".")[0].partition("@")[0]
        if not override.startswith("+") or top in known or top == "hydra" or top in choices or f"${{{top}" in text:
            continue
        elsewhere = [path for path, _ in _leaves(own) if path.endswith(f".{key}")]
        nearest = f" Did you mean {' or '.join(elsewhere[:2])}?" if elsewhere else _nearest(key, known)
        raise SpecError(f"{key}: nothing in the config reads this key.{nearest}")


def refuse_missing(config: DictConfig) -> None:
    """Refuse a config that lacks values.

    Raises:
        SpecError: Names them.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise SpecError(
            f"The config has no value for {', '.join(missing)}. Set {'it' if len(missing) == 1 else 'each'}: "
            f"{missing[0]}=..."
        )


def _refuse_unwritable(folder: Path, key: str) -> None:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise SpecError(
            f"{key} is {folder}, but {there} is no folder that can be written to. Set paths.root_dir to one that "
            f"can, or {key} itself."
        )


def refuse_secrets(config: DictConfig) -> None:
    """Refuse a config that holds a password, a token or the like: Hydra writes it into the folder of every run.

    A value that is an interpolation of an environment variable may stay: only the variable's name is written.

    Raises:
        SpecError: Names the key, never the value.
    """
    # Those of a sweep are in no config yet.
    written = given(hydra_config) if (hydra_config := _hydra_of(config)) is not None else {}
    for key, value in [*written.items(), *_leaves(config)]:
        if value in (None, "", "null", "???") or (isinstance(value, str) and "${" in value):
            continue
        if _SECRET_KEY.search(key.rpartition(".")[2]) or _SECRET_PATH.search(key):
            raise SpecError(
                f"{key} holds a secret, which would be written into the folder of every run. Leave it out: Snowflake's "
                "lie in connections.toml, under the name that source.connection_name gives; others in the environment, "
                "which a config names as ${oc.env:NAME}."
            )
        if isinstance(value, str) and holds_credentials(value):
            raise SpecError(
                f"{key} is a URL with a password or a key in it, which would be written into the folder of every run. "
                "Leave it out of the URL, and keep it in the environment or in a profile."
            )
        if _is_secret(key, value):
            raise SpecError(
                f"{key} has a secret in its text, which would be written into the folder of every run. Keep it in the "
                "environment, and write ${oc.env:NAME} in its place."
            )


def _is_secret(key: str, value: Any) -> bool:
    inside = isinstance(value, str) and (holds_credentials(value) or _SECRET_SETTING.search(value))
    return bool(_SECRET_KEY.search(key.rpartition(".")[2]) or _SECRET_PATH.search(key) or inside)


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
