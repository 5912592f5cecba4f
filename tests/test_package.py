"""The package as a whole: what importing it costs, which way imports go, and what ships."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import fileset_integrations
from tests.support import ROOT

PACKAGE = "fileset_integrations"
SOURCE = Path(fileset_integrations.__file__).parent
FRAMEWORKS = ("torch", "keras", "tensorflow", "lightning", "pytorch_lightning", "jax", "ray", "snowflake")

# Left to right: a module imports only modules to its left. A new module takes its place here.
ORDER = (
    *("errors", "spec", "forks", "counters", "plan", "splits", "kernels", "nulls", "tensors", "decoder", "progress"),
    *("column_specs", "binding", "serving", "columns", "type_table", "manifest", "storage", "engines"),
    *("making", "data_files", "fileset", "views", "fits", "kept", "blocks", "block_files", "mapped"),
    *("gathering", "assembly", "by_index", "states", "reader", "epochs", "checkpoints", "waiting", "mixing"),
    *("profiles", "throughput", "measuring", "report"),
    *("callbacks", "torch", "loader", "trainer_loaders", "tensorflow", "lightning", "keras", "ray"),
    *("summary", "plots", "outcome", "models", "tasks", "schemas", "choices", "config_table", "mistakes", "results"),
    *("sweeps", "study", "runs", "train", "cli"),
)
LAST_WITHOUT_FRAMEWORKS = "report"
RANK = {name: rank for rank, name in enumerate(ORDER)}
SNOWFLAKE_MAY = ("storage", "engines")  # inside functions only: the connector is loaded when a stage is used


# --- importing -------------------------------------------------------------------------------------------------------


def modules_loaded_by(statement: str, cwd: Path) -> set[str]:
    """Top-level names that `statement` adds to sys.modules of a fresh interpreter, standard library left out."""
    program = (
        f"import sys; before = set(sys.modules)\n{statement}\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


def test_importing_the_package_imports_no_framework(tmp_path):
    loaded = modules_loaded_by(f"import {PACKAGE}", tmp_path)

    assert PACKAGE in loaded
    assert loaded.isdisjoint({*FRAMEWORKS, "pandas", "matplotlib", "sklearn"})


@pytest.mark.parametrize("module", ["errors", "spec", "plan"])
def test_the_arithmetic_needs_numpy_at_most(module, tmp_path):
    loaded = modules_loaded_by(f"import {PACKAGE}.{module}", tmp_path)

    assert loaded <= {PACKAGE, "numpy"}


def test_public_names_are_sorted_and_all_there():
    names = list(fileset_integrations.__all__)

    assert names == sorted(set(names))
    assert set(names) <= set(dir(fileset_integrations))
    for name in names:
        assert getattr(fileset_integrations, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fileset_integrations.no_such_name


# --- the direction of imports ----------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One imported module: its dotted name, where the statement stands, and what it stands in."""

    target: str
    where: str
    module: str  # the importing module's first name inside the package: "storage" for storage/cache.py
    inside: tuple[ast.AST, ...]  # enclosing classes, functions and ifs, outermost first

    @property
    def in_function(self) -> bool:
        return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in self.inside)

    @property
    def for_types_only(self) -> bool:
        return any(isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) for node in self.inside)

    @property
    def in_a_face_method(self) -> bool:
        """Whether it stands in a `to_*` method, which imports its face there, or in `split`, which makes views."""
        return any(
            isinstance(outer, ast.ClassDef)
            and isinstance(inner, ast.FunctionDef)
            and (inner.name.startswith("to_") or inner.name == "split")
            for outer, inner in zip(self.inside, self.inside[1:], strict=False)
        )


def imports() -> list[Import]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        inside_package = path.relative_to(SOURCE)
        if inside_package.parts[0] != "conf" and inside_package != Path("__init__.py"):
            module = inside_package.parts[0].removesuffix(".py")
            package = (PACKAGE, *inside_package.parent.parts)
            for target, line, inside in walk(ast.parse(path.read_text(encoding="utf-8")), package):
                found.append(Import(target, f"{PACKAGE}/{inside_package}:{line}", module, inside))
    return found


def walk(
    node: ast.AST, package: tuple[str, ...], inside: tuple[ast.AST, ...] = ()
) -> Iterator[tuple[str, int, tuple[ast.AST, ...]]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, child.lineno, inside
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
            source = ".".join(filter(None, (base, child.module)))
            # `from package import x` may name a module or an attribute: both are checked as package.x.
            for name in [f"{source}.{alias.name}" for alias in child.names] if source == PACKAGE else [source]:
                yield name, child.lineno, inside
        else:
            nested = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
            yield from walk(child, package, (*inside, child) if nested else inside)


def test_every_module_has_a_place_in_the_order():
    present = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert present - {"__init__", "conf"} <= set(ORDER), "give the new module its place in ORDER of this file"


def test_a_module_imports_only_modules_to_its_left():
    wrong = []
    for found in imports():
        names = found.target.split(".")
        if names[0] != PACKAGE:
            continue
        name = names[1] if len(names) > 1 else ""
        if name == found.module or (found.module == "fileset" and (found.in_a_face_method or found.for_types_only)):
            continue
        if name not in ORDER:
            if RANK.get(found.module, 0) <= RANK["ray"]:
                wrong.append(f"{found.where}: imports {found.target}: take the name from the module that defines it")
        elif RANK[name] > RANK.get(found.module, len(RANK)):
            wrong.append(f"{found.where}: {found.module} imports {found.target}, which lies to its right")

    assert wrong == []


def test_frameworks_are_imported_by_their_faces_only():
    core = ORDER[: RANK[LAST_WITHOUT_FRAMEWORKS] + 1]
    wrong = []
    for found in imports():
        name = found.target.partition(".")[0]
        lazy_snowflake = name == "snowflake" and found.module in SNOWFLAKE_MAY and found.in_function
        if name in FRAMEWORKS and found.module in core and not (found.for_types_only or lazy_snowflake):
            wrong.append(f"{found.where}: {found.module} imports {found.target}")

    assert wrong == []


# --- what is declared ------------------------------------------------------------------------------------------------


def requirement_name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared() -> tuple[set[str], dict[str, set[str]]]:
    """Names of the core dependencies, and those of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {requirement_name(requirement) for requirement in project["dependencies"]}
    extras = {
        extra: {requirement_name(requirement) for requirement in requirements} - {project["name"]}
        for extra, requirements in project["optional-dependencies"].items()
    }
    return core, extras


@pytest.mark.checkout
def test_everything_imported_is_a_declared_dependency():
    core, extras = declared()
    optional = set().union(*(names for extra, names in extras.items() if extra != "dev"))
    distribution = {
        **{
            "PIL": "pillow",
            "sklearn": "scikit-learn",
            "hydra": "hydra-core",
            "snowflake": "snowflake-connector-python",
        },
        "yaml": "omegaconf",  # comes with it
        "jaxlib": "jax",
    }
    wrong = []
    for found in imports():
        name = found.target.partition(".")[0]
        if name not in sys.stdlib_module_names and name != PACKAGE:
            needed = distribution.get(name, name)
            free = RANK.get(found.module, 0) <= RANK[LAST_WITHOUT_FRAMEWORKS] and not found.in_function
            if needed not in (core if free and not found.for_types_only else core | optional):
                wrong.append(f"{found.where}: imports {name}, which pyproject.toml does not declare for it")

    assert wrong == []


@pytest.mark.checkout
def test_constraints_pin_every_direct_dependency_to_one_plain_version():
    core, extras = declared()
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    used = ("dev", "images", "jax", "keras", "lightning", "ray", "recipes", "sweep")
    installed_by_make = core.union(*(extras[extra] for extra in used))

    assert pins["torch"] == "2.13.0"
    assert installed_by_make <= set(pins)
    for name, version in pins.items():
        assert name == requirement_name(name)
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)*(\.post[0-9]+)?", version), f"{name}=={version}"


# --- what ships ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from a copy: a build in the checkout would leave its folders there."""
    copy = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (PACKAGE, "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.mark.checkout
def test_the_wheel_holds_every_module_and_every_config(wheel):
    wanted = {f"{PACKAGE}/py.typed", f"{PACKAGE}/conf/__init__.py"}
    for folder, inside in ((ROOT / PACKAGE, PACKAGE), (ROOT / "conf", f"{PACKAGE}/conf")):
        for path in folder.rglob("*"):
            if path.suffix in {".py", ".yaml", ".sql", ".html", ".typed"}:
                wanted.add(f"{inside}/{path.relative_to(folder).as_posix()}")

    assert wanted - set(wheel.namelist()) == set()


@pytest.mark.checkout
def test_the_wheel_holds_nothing_else(wheel):
    others = {name for name in wheel.namelist() if not name.startswith(f"{PACKAGE}/")}

    assert {name.partition("/")[0].partition("-")[2] for name in others} == {"0.1.0.dist-info"}
    assert any(name.endswith("/LICENSE") for name in others)
    (entry_points,) = (name for name in others if name.endswith("/entry_points.txt"))
    assert {line.split(" =")[0] for line in wheel.read(entry_points).decode().splitlines() if "=" in line} == {
        "fileset",
        "fileset-train",
    }


def test_configs_are_found_where_the_package_is_installed():
    conf = Path(str(files(f"{PACKAGE}.conf")))

    assert (conf / "train.yaml").is_file()
    if (ROOT / "conf").is_dir():
        assert conf.samefile(ROOT / "conf"), "an editable install shows edits of conf/ at once"


def keys(node: object, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}{key}"
            yield from keys(value, f"{path}{key}.")
    elif isinstance(node, list):
        for value in node:
            yield from keys(value, path)


def test_configs_have_no_place_for_a_secret():
    secret = re.compile(r"(^|_)(password|passwd|passphrase|passcode|secret|token|api_?key|private_key|credentials?)$")
    found = []
    for path in Path(str(files(f"{PACKAGE}.conf"))).rglob("*.yaml"):
        for key in keys(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if secret.search(key.rpartition(".")[2].lower()):
                found.append(f"{path.name}: {key}")

    assert found == [], "connections are named, never described: Hydra writes configs and overrides to disk"


@pytest.mark.checkout
def test_no_file_names_a_folder_of_the_machine_it_was_written_on():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    # In pieces, so that this file is not found.
    folders = re.compile(r"(?<![\w.}])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "fa" + "rm"]) + ")/|bash" + "_jobs")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
            found += [f"{name}: {match[0]}" for match in folders.finditer(text)]

    assert found == []
