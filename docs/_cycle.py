"""The diagram of the cycle, printed from its transition table."""

from __future__ import annotations

from keeperd.cycle import CLOSED, NEVER_ABANDONED, STEPS, TABLE


def main_line() -> list[str]:
    """The states on the way to success: from each one its first edge that goes forward."""
    line = [next(iter(TABLE))]
    while line[-1] in TABLE:
        line.append(next(to for to in TABLE[line[-1]] if to not in line))
    return line


def ascii_diagram() -> str:
    """Success runs down; to the right, where else a state may go."""
    line = main_line()
    lines = []
    for state, following in zip(line, [*line[1:], None], strict=True):
        aside = [to for to in TABLE.get(state, ()) if to != following]
        lines.append(f"{state:<10}" + (f" --> {', '.join(aside)}" if aside else ""))
        lines += ["   |", "   v"] if following else []
    lines += [""] + [
        f"{state:<10} --> {', '.join(targets)}" for state, targets in TABLE.items() if state not in line
    ]
    return "\n".join(text.rstrip() for text in lines)


def mermaid() -> str:
    """A state diagram for viewers that draw one."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(TABLE))}"]
    lines += [f"    {state} --> {to}" for state, targets in TABLE.items() for to in targets]
    lines += [f"    {state} --> [*]" for state in CLOSED]
    return "\n".join(lines)


def page() -> str:
    """docs/cycle.md."""
    meanings = "\n".join(f"| {state} | {_first_paragraph(STEPS[state].__doc__)} |" for state in TABLE)
    return f"""# The cycle

One pass of maintenance of one model. `keeperd/cycle.py` holds the table of states that this page is
printed from, and one small function a state.

```
{ascii_diagram()}
```

A rollback that the operator asks for opens a cycle at ROLLBACK. The last
states are {_listed(CLOSED)}.

A step that fails is tried again, at growing intervals. After the configured number of attempts the
cycle is FAILED and the champion stays. Only {_listed(NEVER_ABANDONED)} are tried until they succeed:
giving up there would leave it unclear what serves.

| state | what happens there |
|---|---|
{meanings}

```mermaid
{mermaid()}
```
"""


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
