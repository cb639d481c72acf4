"""The plugin loader: what is found, what is trusted, and what is refused with a reason."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from keeperd.api import KEEPERD_API, BadRow, Filter, PluginError, Row
from keeperd.plugins import PluginInfo, check_trusted, find, installed, load, register

SHOUT = """
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pydantic import Field

from keeperd.api import BadRow, Filter, Options, Row, hookimpl


class ShoutOptions(Options):
    mark: str = Field("!", max_length=3)


class Shout(Filter[ShoutOptions]):
    "Rows in capitals."

    name = "shout-loud"
    Options = ShoutOptions

    def apply(self, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
        for row in rows:
            yield replace(row, text=row.text.upper() + self.options.mark) if isinstance(row, Row) else row


@hookimpl
def keeperd_components():
    return [Shout]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty plugin folder that can be trusted."""
    place = tmp_path / "plugins"
    place.mkdir(mode=0o755)
    return place


def drop(folder: Path, name: str, text: str = SHOUT) -> Path:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    path.chmod(0o644)
    return path


# --- found ------------------------------------------------------------------------------------------


def test_keeperds_own_plugins_are_found_by_kind_and_name() -> None:
    info = find("notifier", "smtp")
    assert info.module == "keeperd_plugins.smtp_notifier"
    assert info.source.startswith("keeperd ")
    assert info.sha256 is None


def test_listing_imports_none_of_them() -> None:
    code = (
        "import sys; from keeperd import plugins; assert plugins.installed(); print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"keeperd_plugins", "torch", "numpy", "pyarrow", "onnxruntime"})


def test_importing_them_is_light() -> None:
    code = """
        import sys
        from keeperd import plugins
        for info in plugins.installed():
            if info.module.startswith("keeperd_plugins."):
                plugins.register(info)
        print(*sys.modules, sep="\\n")
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "keeperd_plugins" in loaded
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "scipy",
        "sklearn",
        "pandas",
        "pyarrow",
        "onnx",
        "onnxruntime",
        "evidently",
    }
    assert loaded & heavy == set()


def test_a_dropped_in_file_is_found_and_works(folder: Path) -> None:
    path = drop(folder, "filter_shout_loud.py")
    info = find("filter", "shout-loud", folder)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    assert info == PluginInfo("filter", "shout-loud", str(path), "file", sha)
    shout = load("filter", "shout-loud", {"mark": "?"}, folder)
    assert isinstance(shout, Filter)
    rows = [Row("hello"), BadRow(2, "empty")]
    assert list(shout.apply(rows)) == [Row("HELLO?"), BadRow(2, "empty")]


def test_an_unknown_name_is_answered_with_those_that_there_are(folder: Path) -> None:
    drop(folder, "filter_shout_loud.py")
    with pytest.raises(PluginError, match=r"no filter plugin 'shut'; installed: .*shout-loud"):
        load("filter", "shut", None, folder)


def test_a_module_that_only_hears_events(folder: Path) -> None:
    text = """
        from keeperd.api import hookimpl

        @hookimpl
        def keeperd_on_event(event, context):
            pass
    """
    drop(folder, "hook_listener.py", text)
    manager = register(find("hook", "listener", folder))
    assert manager.hook.keeperd_components() == []
    assert len(manager.hook.keeperd_on_event.get_hookimpls()) == 1


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shout.py", "spell_shout.py", "_shout.py"])
def test_a_file_name_that_tells_no_kind_is_refused(folder: Path, name: str) -> None:
    drop(folder, name)
    with pytest.raises(PluginError, match=r"name it KIND_NAME\.py"):
        installed(folder)


def test_one_name_twice_is_refused(folder: Path) -> None:
    drop(folder, "filter_length.py")
    with pytest.raises(PluginError, match=r"filter 'length' is given twice: .*; remove one"):
        installed(folder)


def test_two_files_that_mean_one_name_are_refused(folder: Path) -> None:
    drop(folder, "filter_shout-loud.py")
    drop(folder, "filter_shout_loud.py")
    with pytest.raises(PluginError, match="given twice"):
        installed(folder)


# --- trust ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_change_is_refused(folder: Path, mode: int) -> None:
    drop(folder, "filter_shout_loud.py").chmod(mode)
    with pytest.raises(PluginError, match=r"can be changed by others; chmod go-w"):
        load("filter", "shout-loud", None, folder)


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_folder_that_others_can_change_is_refused_wherever_it_stands(tmp_path: Path, mode: int) -> None:
    above = tmp_path / "above"
    folder = above / "plugins"
    folder.mkdir(parents=True, mode=0o755)
    drop(folder, "filter_shout_loud.py")
    above.chmod(mode)
    with pytest.raises(PluginError, match=rf"{above}: can be changed by others"):
        installed(folder)


def test_a_sticky_folder_protects_what_lies_in_it(tmp_path: Path) -> None:
    above = tmp_path / "above"
    folder = above / "plugins"
    folder.mkdir(parents=True, mode=0o755)
    above.chmod(0o1777)
    check_trusted(drop(folder, "filter_shout_loud.py"))


def test_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    real = drop(tmp_path, "real.py")
    (folder / "filter_shout_loud.py").symlink_to(real)
    with pytest.raises(PluginError, match="not loaded through a symbolic link"):
        installed(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_somebody_elses_file_is_refused(folder: Path) -> None:
    path = drop(folder, "filter_shout_loud.py")
    os.chown(path, 12345, 12345)
    with pytest.raises(PluginError, match="belongs to user 12345"):
        installed(folder)


def test_a_file_that_loses_trust_after_the_listing_is_not_imported(folder: Path) -> None:
    path = drop(folder, "filter_shout_loud.py")
    info = find("filter", "shout-loud", folder)
    path.chmod(0o666)
    with pytest.raises(PluginError, match="can be changed by others"):
        register(info)


# --- contents ---------------------------------------------------------------------------------------


def test_another_api_version_is_refused(folder: Path) -> None:
    text = SHOUT.replace('name = "shout-loud"', f'name = "shout-loud"\n    api = {KEEPERD_API + 1}')
    drop(folder, "filter_shout_loud.py", text)
    with pytest.raises(
        PluginError, match=f"written for API {KEEPERD_API + 1}, this keeperd has {KEEPERD_API}"
    ):
        load("filter", "shout-loud", None, folder)


def test_a_plugin_that_offers_something_else_is_refused(folder: Path) -> None:
    drop(folder, "filter_whisper.py")
    with pytest.raises(PluginError, match="promises filter 'whisper' but offers filter shout-loud"):
        load("filter", "whisper", None, folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_library_anywhere", "ModuleNotFoundError"),
        ("def broken(:\n    pass", "SyntaxError"),
        ("from keeperd.api import NoSuchThing", "ImportError"),
        (
            "from keeperd.api import hookimpl\n@hookimpl\ndef keeperd_components(surprise):\n    return []",
            "PluginValidationError",
        ),
        (
            "from keeperd.api import hookimpl\n@hookimpl\ndef keeperd_component():\n    return []",
            "PluginValidationError",
        ),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(folder: Path, text: str, reason: str) -> None:
    drop(folder, "filter_broken.py", text)
    with pytest.raises(PluginError, match=rf"filter_broken\.py: {reason}: "):
        load("filter", "broken", None, folder)


def test_options_are_checked(folder: Path) -> None:
    drop(folder, "filter_shout_loud.py")
    with pytest.raises(PluginError, match=r"options\.shout-loud\.volume: unknown key"):
        load("filter", "shout-loud", {"volume": 11}, folder)
    with pytest.raises(PluginError, match=r"options\.shout-loud\.mark: found '!!!!'"):
        load("filter", "shout-loud", {"mark": "!!!!"}, folder)


def test_an_entry_point_without_a_kind_is_refused(tmp_path: Path) -> None:
    dist = tmp_path / "other-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", encoding="utf-8")
    (dist / "entry_points.txt").write_text("[keeperd.plugins]\nshout = other.shout\n", encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from keeperd import plugins; plugins.installed()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PluginError: entry point 'shout' (other.shout): name it KIND.NAME" in done.stderr


def test_other_files_of_the_folder_cannot_be_imported(folder: Path) -> None:
    drop(folder, "filter_shout_loud.py")
    drop(folder, "hook_other.py", "")
    load("filter", "shout-loud", None, folder)
    assert str(folder) not in sys.path
