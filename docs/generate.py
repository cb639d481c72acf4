"""Write the reference pages and etc/keeperd.toml from the code, so that they never differ from it.

`make docs` writes them; a test compares the committed files with what this would write.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import _cli
import _cycle
import _options
import _plugins

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by `make docs` from the code; change it there. -->\n\n"


def pages() -> dict[str, str]:
    """Every generated file: its path below the repository, and its text."""
    written = {
        "etc/keeperd.toml": _options.toml(),
        "docs/configuration.md": NOTE + _options.page(),
        "docs/cycle.md": NOTE + _cycle.page(),
        "docs/plugin-options.md": NOTE + _plugins.page(),
    }
    if importlib.util.find_spec("keeperd.cli"):
        written["docs/cli.md"] = NOTE + _cli.page()
    return written


def main(arguments: list[str]) -> int:
    """Write all pages, or with --check only name those that differ; the exit status."""
    differing = []
    for name, text in pages().items():
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(name)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    if "--check" in arguments:
        for name in differing:
            print(f"{name}: differs from the code; run `make docs`")
        return 1 if differing else 0
    print("written: " + (", ".join(differing) or "nothing, all is up to date"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
