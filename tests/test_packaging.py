"""What is shipped: every package, every plugin, every template, and pins for all that is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLUGINS: dict[str, str] = PROJECT["project"]["entry-points"]["keeperd.plugins"]
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in wanted), "exact pins only"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in wanted)}


# --- lists in pyproject.toml ------------------------------------------------------------------------


def test_every_package_is_listed() -> None:
    inits = (ROOT / "keeperd").rglob("__init__.py")
    found = {".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    assert found | {"keeperd_plugins"} == set(PACKAGES)


def test_every_plugin_file_has_an_entry_point_and_the_other_way_round() -> None:
    files = {f"keeperd_plugins.{path.stem}" for path in (ROOT / "plugins").glob("[!_]*.py")}
    assert files == set(PLUGINS.values())


def test_plugin_files_do_not_hide_the_standard_library() -> None:
    stems = {path.stem for path in (ROOT / "plugins").glob("*.py")}
    assert stems.isdisjoint(sys.stdlib_module_names)


# --- pins ---------------------------------------------------------------------------------------------


def test_everything_that_is_asked_for_is_pinned_to_a_version_that_fits() -> None:
    project, pinned = PROJECT["project"], pins()
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        wanted = Requirement(text)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{text}: add a pin to constraints.txt"
        assert wanted.specifier.contains(version, prereleases=True), f"{text}: the pin is {version}"


def test_there_is_one_onnxruntime() -> None:
    # Beside the GPU build the plain one overwrites its files, and the GPU is gone without a word.
    assert [name for name in pins() if name.startswith("onnxruntime")] == ["onnxruntime-gpu"]


def test_this_environment_has_the_pinned_versions() -> None:
    pinned = pins()
    here = {canonicalize_name(one.metadata["Name"]): one.version.partition("+")[0] for one in distributions()}
    other = {
        name: (here[name], version) for name, version in pinned.items() if here.get(name, version) != version
    }
    if other and not os.environ.get("CI"):
        pytest.skip(f"not the pinned environment (installed, pinned): {other}")
    assert other == {}


# --- the wheel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build lies in the way."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("keeperd", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix().replace("plugins/", "keeperd_plugins/", 1)
        for folder in ("keeperd", "plugins")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    assert wanted - held == set()
    assert {name for name in held if not name.startswith(("keeperd", "keeperd_plugins"))} == set()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, which borrows the other libraries from this one."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-qq",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(pip, check=True)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return venv / "bin"


def test_an_installed_wheel_lists_its_plugins(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "keeperd.toml"
    config.write_text("", encoding="utf-8")
    listing = [str(installed / "keeperd"), "--config", str(config), "plugins", "list", "--json"]
    done = subprocess.run(listing, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {f"{one['kind']}.{one['name']}": one["module"] for one in json.loads(done.stdout)}
    assert {name: found.get(name) for name in PLUGINS} == PLUGINS


IMPORT_ALL = """
import importlib, sys
from importlib.metadata import entry_points
for point in entry_points(group="keeperd.plugins"):
    module = importlib.import_module(point.value)
    assert module.__file__.startswith(sys.prefix), module.__file__
    assert hasattr(module, "keeperd_components") or hasattr(module, "keeperd_on_event"), point
"""


def test_every_plugin_of_an_installed_wheel_imports(installed: Path, tmp_path: Path) -> None:
    run = [str(installed / "python"), "-I", "-c", IMPORT_ALL]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
