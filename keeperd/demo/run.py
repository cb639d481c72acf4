"""The demo from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from keeperd.api import KeeperdError
from keeperd.demo import drops, ending
from keeperd.demo import folder as folders
from keeperd.demo.ending import Result
from keeperd.demo.folder import MODEL
from keeperd.demo.keeper import Keeper
from keeperd.demo.show import Show
from keeperd.demo.stages import Drop, Stage, stages

LOOK_EVERY = 0.25
PATIENCE = 600.0
"""Seconds without a sign of life after which the demo gives up."""
MAIL = 3.0
"""Seconds without a message under way after which none is waited for."""


def run(path: Path, console: Console) -> None:
    """Make the folder, start the daemon, go through the stages, and say where everything is.

    Raises:
        KeeperdError: it cannot run here, or the daemon ended or hangs.
    """
    began = time.monotonic()
    folders.encoder()
    show = Show(console)
    with show.open():
        show.begin(path)
        dealt = drops.make()
        folder = folders.make(path, dealt)
        with Keeper(folder) as keeper:
            acts = stages(dealt)
            results = [_act(keeper, show, stage, f"{n} of {len(acts)}") for n, stage in enumerate(acts, 1)]
            _wait_for_mail(keeper)
            status = keeper.status()
    ending.tell(show, folder, results, status, dealt.unseen, time.monotonic() - began)


def _act(keeper: Keeper, show: Show, stage: Stage, number: str) -> Result:
    """One stage; what the daemon made of it."""
    began = time.monotonic()
    keeper.turn_page()
    show.stage(number, stage)
    if not stage.drops:
        show.asked(f"keeperd init {MODEL}")
        keeper.client.trigger(MODEL, "init", "")
        _follow(keeper, show, lambda: True)
    for drop in stage.drops:
        _drop(keeper, show, drop)
    return Result(stage.title, keeper.look().stories, time.monotonic() - began)


def _drop(keeper: Keeper, show: Show, drop: Drop) -> None:
    file = keeper.folder.drop(drop.name, drop.rows)
    show.dropped(drop)
    _follow(keeper, show, lambda: keeper.has_taken(file))


def _follow(keeper: Keeper, show: Show, begun: Callable[[], bool]) -> None:
    """Show what happens until it has begun and has come to rest again.

    Raises:
        KeeperdError: nothing has happened for long.
    """
    last, give_up = None, 0.0
    while True:
        has_begun = begun()  # asked first: the rest that is seen afterwards is not the one before
        seen = keeper.look()
        show.seen(seen)
        if has_begun and seen.at_rest:
            return
        if (sign := (seen.events, seen.fraction, seen.words)) != last:
            last, give_up = sign, time.monotonic() + PATIENCE
        if time.monotonic() > give_up:
            raise KeeperdError(f"nothing has happened for {PATIENCE:.0f} s; see {keeper.folder.log}")
        time.sleep(LOOK_EVERY)


def _wait_for_mail(keeper: Keeper) -> None:
    """The last message may be under way still."""
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + MAIL:
        if keeper.status()["deliveries"].get("sending"):
            quiet_since = time.monotonic()
        time.sleep(LOOK_EVERY)
