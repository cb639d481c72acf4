"""A watched folder, a ledger's place holder, and intakes one after the other."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from keeperd import intake, plugins, rows
from keeperd.api import Component, Context
from keeperd.config import Intake


class MemoryLedger:
    """The port `KnownFiles`, in memory: what the ledger remembers of files."""

    def __init__(self) -> None:
        self.states: set[tuple[str, int, int, int]] = set()
        self.contents: set[str] = set()

    def is_known(self, path: str, size: int, mtime_ns: int, inode: int) -> bool:
        return (path, size, mtime_ns, inode) in self.states

    def has_content(self, sha256: str) -> bool:
        return sha256 in self.contents

    def commit(self, entry: Mapping[str, Any]) -> None:
        self.states.add((entry["path"], entry["size"], entry["mtime_ns"], entry["inode"]))
        if entry["status"] == "accepted":
            self.contents.add(entry["sha256"])


def load(kind: str, name: str) -> Component[Any]:
    return plugins.load(kind, name)


class Box:
    """A watched folder `drop` and the intakes of one model, committed one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drop = folder / "drop"
        self.drop.mkdir()
        self.ledger = MemoryLedger()
        self.batches: list[Path] = []
        self.protected: list[str] = []
        self.context = Context(workdir=folder / "work")
        self.context.workdir.mkdir()
        self.runs = 0
        self.files: dict[str, dict[str, Any]] = {}
        self.quarantine: list[dict[str, Any]] = []
        self.table: pa.Table = rows.SCHEMA.empty_table()

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.drop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def put_rows(self, name: str, *objects: Mapping[str, Any]) -> Path:
        return self.put(name, "".join(json.dumps(each) + "\n" for each in objects))

    def scan(self, settle_s: float = 0.0, now: float | None = None) -> intake.Scan:
        return intake.scan([str(self.drop)], self.ledger, time.time() + 1 if now is None else now, settle_s)

    def run(
        self, found: intake.Scan | None = None, load_with: intake.Load | None = None, **settings: Any
    ) -> dict[str, Any]:
        """One intake, committed; `files`, `quarantine` and `table` show what it wrote."""
        self.runs += 1
        out = self.folder / f"out{self.runs}"
        out.mkdir()
        options = Intake.model_validate(settings)
        result = intake.freeze(
            found or self.scan(),
            settings=options,
            rows=intake.FileRows(options, intake.READERS, load_with or load),
            known=self.ledger,
            batches=self.batches,
            protected=intake.Protected(self.protected),
            out=out,
            context=self.context,
        )
        json.dumps(result, allow_nan=False)
        entries = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
        self.quarantine = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
        self.files = {str(Path(entry["path"]).relative_to(self.drop)): entry for entry in entries}
        self.table = rows.SCHEMA.empty_table()
        if result["batch"]:
            batch = self.folder / f"{result['batch']}.parquet"
            shutil.copy(out / "batch.parquet", batch)
            self.batches.append(batch)
            self.table = rows.read([batch])
        for entry in entries:
            self.ledger.commit(entry)
        return result

    def texts(self) -> list[str]:
        """Texts of the last batch."""
        texts: list[str] = self.table.column("text").to_pylist()
        return texts

    def labels(self) -> dict[str, str | None]:
        """Text -> label of the last batch."""
        return dict(zip(self.texts(), self.table.column("label").to_pylist(), strict=True))

    def reasons(self) -> list[str]:
        """Why rows and files of the last intake were refused."""
        return [entry["reason"] for entry in self.quarantine]


SCRIPTS = {
    "chinese": "今天的天气非常好，我们一起去公园散步吧。",
    "arabic": "الطقس جميل اليوم، فلنذهب إلى الحديقة معًا.",
    "hebrew": "מזג האוויר יפה היום, בואו נלך לגן.",
    "hindi": "आज मौसम बहुत अच्छा है, चलो बगीचे में टहलते हैं।",
    "thai": "วันนี้อากาศดีมาก เราไปเดินเล่นที่สวนกันเถอะ",
    "emoji": "👩‍💻🏳️‍🌈🎉",
    "mixed": "He said: שלום, \u200fworld\u200e!",
}
"""A text in each of several scripts."""

LONG = {
    "english": "the committee will meet on thursday at noon to discuss the budget of the coming year "
    "and the repair of the roof over the old hall",
    "chinese": "昨天晚上我们在湖边的小餐馆里吃了一顿非常丰盛的晚饭，然后沿着河岸慢慢地走回旅馆，"
    "一路上谈论着明年的旅行计划，还有孩子们在学校里的新鲜事。"
    "天气不冷也不热，月亮又大又圆，大家都说这样的夜晚一年里也没有几个。",
    "arabic": "ذهبنا أمس إلى السوق القديم واشترينا الكثير من الفواكه والخضروات الطازجة ثم عدنا إلى البيت "
    "مشيا على الأقدام وتحدثنا طوال الطريق عن السفر في الصيف القادم وعن أخبار الأولاد في المدرسة",
}
"""Longer texts, where one letter more or less makes a near duplicate."""
