"""A sheet as HTML: one screen on a phone, light and dark, nothing from anywhere else.

Tables carry the layout and styles stand in each element, because mail programs know little more.
Everything from the story goes through Jinja's escaping (and `wording.visible` before that).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import css_inline
import jinja2
from markupsafe import Markup

from keeperd.report import figures
from keeperd.report.sheet import Sheet
from keeperd.report.wording import share

_TOGETHER = re.compile(r"(?<=\d) (?=%|ms\b|points\b|min\b)|(?<=[Vv]ersion) (?=\d)")
"""Blanks at which a line must not end."""


def pictures(sheet: Sheet) -> dict[str, bytes]:
    """Names and PNG bytes of the pictures that the sheet has."""
    found = {}
    if sheet.compared:
        found["candidate"] = figures.candidate(sheet.compared)
    if sheet.watch is not None and sheet.watch.trail:
        found["probation"] = figures.probation(sheet.watch)
    return found


def by_cid(images: Mapping[str, bytes]) -> dict[str, str]:
    """Addresses of pictures that travel beside the HTML."""
    return {name: f"cid:{name}" for name in images}


def by_data(images: Mapping[str, bytes]) -> dict[str, str]:
    """Addresses of pictures that stand in the HTML."""
    return {name: "data:image/png;base64," + b64encode(png).decode("ascii") for name, png in images.items()}


def html(sheet: Sheet, addresses: Mapping[str, str]) -> str:
    """A complete document; `addresses` says where each picture is found."""
    widest = max([0.0001, *(max(one.before, one.now) for one in (*sheet.words, *sheet.slices))])
    page = _template().render(
        sheet=sheet,
        page=sheet.page,
        images=addresses,
        css=Markup(_read("message.css")),  # noqa: S704 - our own file
        share=share,
        width=lambda value: max(round(100 * value / widest), 1),
        alt_candidate="; ".join(
            f"{one.name} {share(one.champion)} to {share(one.candidate)}" for one in sheet.compared
        ),
    )
    inliner = css_inline.CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)
    return inliner.inline(page)


def _read(name: str) -> str:
    return files("keeperd.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: _TOGETHER.sub("\u00a0", value) if type(value) is str else value,
    )
    return environment.from_string(_read("message.html.j2"))
