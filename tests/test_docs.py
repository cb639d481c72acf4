"""The documentation says what the code does: generated pages, commands, links and examples."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from keeperd import config, plugins
from keeperd.api import Context, Detector, Window
from keeperd.config import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted({*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "plugins" / "README.md"})
GUIDE = ROOT / "docs" / "operators.md"
AUTHORS = ROOT / "plugins" / "README.md"


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


# --- generated --------------------------------------------------------------------------------------


def test_the_reference_is_what_the_code_says() -> None:
    generate = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(generate, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_diagrams_have_every_edge_of_the_table_and_no_other() -> None:
    from keeperd.cycle import CLOSED, TABLE

    page = (ROOT / "docs" / "cycle.md").read_text(encoding="utf-8")
    edges = {(state, to) for state, targets in TABLE.items() for to in targets}
    drawn = set(re.findall(r"^    ([A-Z_]+) --> ([A-Z_]+)$", page, flags=re.MULTILINE))
    assert drawn == edges
    assert set(re.findall(r"^    ([A-Z_]+) --> \[\*\]$", page, flags=re.MULTILINE)) == set(CLOSED)
    assert _edges_of_text(page.split("```")[1]) == edges


def _edges_of_text(diagram: str) -> set[tuple[str, str]]:
    """Read the text diagram back: down the lines, and aside after an arrow."""
    edges, above, down = set(), "", False
    for line in diagram.splitlines():
        if match := re.match(r"([A-Z_]+)\s*(?:--> (.*))?$", line):
            state, aside = match.groups()
            edges |= {(above, state)} if down else set()
            edges |= {(state, to) for to in (aside or "").split(", ") if to}
            above, down = state, False
        down = down or line.strip() == "v"
    return edges


# --- commands and links -----------------------------------------------------------------------------


def commands() -> dict[str, set[str]]:
    """Every command of the program ("plugins list" too) and its options."""
    from keeperd.cli import app

    found: dict[str, set[str]] = {}

    def walk(command: object, path: str) -> None:
        options = {option for one in getattr(command, "params", ()) for option in one.opts}
        found[path] = options | {"--help", "--config"}
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{path} {name}".strip())

    walk(typer.main.get_command(app), "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_exist(page: Path) -> None:
    known = commands()
    groups = {path.split()[0] for path in known if " " in path}
    text = page.read_text(encoding="utf-8")
    shell = "\n".join(blocks(page, "sh"))
    calls = re.findall(r"(?:`|-- |bin/)keeperd ([a-z][^`\n#|]*)", text)
    calls += re.findall(r"^keeperd ([a-z][^\n#|]*)", shell, flags=re.MULTILINE)
    wrong = []
    for call in calls:
        words = call.split()
        path = " ".join(words[:2]) if words[0] in groups else words[0]
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if path not in known or options - known[path]:
            wrong.append(f"keeperd {call.strip()}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    anchors = {_anchor(title) for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_exit_codes_are_the_programs() -> None:
    from keeperd.exits import EXIT_CODES

    told = re.findall(r"^\| (\d+) \|", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [int(code) for code in told] == list(EXIT_CODES)


# --- examples ---------------------------------------------------------------------------------------


def test_configurations_in_the_guides_are_accepted() -> None:
    (operators,) = blocks(GUIDE, "toml")
    settings = Settings.model_validate(tomllib.loads(operators))
    smtp = plugins.load("notifier", "smtp", settings.notify["operators"].options)
    assert smtp.options.model_dump()["host"] == "mail.example.org"
    parts = [block for block in blocks(AUTHORS, "toml") if "entry-points" not in block]
    assert parts
    for part in parts:
        tables = tomllib.loads(part)
        for model in tables["model"].values():
            model |= {"base": "/srv/base", "watch": ["/srv/in"]}
        assert "shouting" in config.Settings.model_validate(tables).model["tickets"].options


def test_the_authors_example_works_as_it_stands(tmp_path: Path) -> None:
    example, trial = blocks(AUTHORS, "python")
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    (folder / "detector_shouting.py").write_text(example, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", trial.replace("/etc/keeperd/plugins", str(folder))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "50.0% of the texts are in capitals, 0.0% in the reference.\n", done.stderr
    detector = plugins.load("detector", "shouting", {}, folder)
    assert isinstance(detector, Detector)
    context = Context(workdir=tmp_path)
    calm = Window(["hello", "OK", "good morning", "thanks"] * 25)
    statistics = detector.fit(calm, context)
    assert [signal.drifted for signal in detector.detect(statistics, calm, None, context)[0]] == [False]
    loud = Window(["HELLO", "OK", "GOOD MORNING", "thanks"] * 25)
    assert [signal.drifted for signal in detector.detect(statistics, loud, None, context)[0]] == [True]
