"""Studies to report on, and the tables of a page as a reader of its own finds them."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from results.fabricate import new_run, sealed_run, summary_with

from normhpc.record import RecordWriter, RunFolder
from normhpc.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which is not on the path")

LEVELS = {"batch": 0.90, "layer": 0.80, "instance": 0.898}


def grid_study(runs: Path, *, seeds: int = 3, epochs: int = 4) -> None:
    """Three norms at two learning rates; batch is the best by far of layer and by little of instance."""
    for rate in (0.1, 0.2):
        for norm, level in LEVELS.items():
            for seed in range(seeds):
                top1 = level + (0.001, 0.004, -0.002, 0.003, -0.004)[seed] * (1 if norm == "batch" else -1)
                curve_run(runs, {"norm": norm, "seed": seed, "optim": {"lr": rate}}, top1, epochs)


def curve_run(runs: Path, config: dict[str, Any], top1: float, epochs: int = 4, **changes: Any) -> RunFolder:
    """A finished run whose ``val_top1`` climbs to ``top1`` in even steps, two seconds an epoch."""
    swept = {"norm": config["norm"]} | ({"optim.lr": config["optim"]["lr"]} if "optim" in config else {})
    folder = new_run(runs, config, swept=swept)
    writer = RecordWriter(folder)
    writer.event("started", host="here", device="cpu", torch="2.15.0")
    for epoch in range(1, epochs + 1):
        value = top1 * epoch / epochs
        trained = {"loss": 1 / epoch, "top1": value, "lr": 0.1, "seconds": 2.0, "images_per_second": 700.0}
        writer.metrics(epoch=epoch, step=5 * epoch, split="train", values=trained)
        writer.metrics(epoch=epoch, step=5 * epoch, split="val", values={"loss": 2 / epoch, "top1": value})
    writer.metrics(epoch=epochs, step=5 * epochs, split="test", values={"loss": 1 - top1, "top1": top1})
    writer.seal(summary_with(top1) | changes)
    writer.close()
    return folder


def one_seed_study(runs: Path) -> None:
    """Two norms, one seed each."""
    for norm, top1 in (("batch", 0.9), ("layer", 0.8)):
        sealed_run(runs, {"norm": norm, "seed": 7}, top1, swept={"norm": norm})


def written(runs: Path, metric: str | None = None) -> str:
    """The page about ``runs``."""
    out = runs.parent / "report.html"
    write_report([runs], out, metric)
    return out.read_text()


class Reader(HTMLParser):
    """Rows of tables by id: each a mapping of column key to (text, number or None, mark)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, tuple[str, float | None, str]]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._keys: list[str] = []
        self._row: list[Any] = []
        self._cell: Any = None
        self._table = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag == "table":
            self._table, self._keys = given["id"], []
            self.tables[self._table] = []
        elif tag == "tr":
            self._row = []
        elif tag == "th" and given.get("scope") == "col":
            self._keys.append(given["data-key"])
        elif tag in ("td", "th"):
            self._cell = ["", float(given["data-v"]) if "data-v" in given else None, ""]
        elif tag in ("b", "u") and self._cell:
            self._cell[2] = tag

    def handle_data(self, data):
        self.words.append(data)
        if self._cell:
            self._cell[0] += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell:
            self._row.append(tuple(self._cell))
            self._cell = None
        elif tag == "tr" and self._row:
            self.tables[self._table].append(dict(zip(self._keys, self._row, strict=True)))

    @property
    def text(self) -> str:
        """All words of the page, with single blanks."""
        return " ".join(" ".join(self.words).split())


def edit_json(path: Path, **changes: Any) -> None:
    """Put other values under dotted paths (``config__norm__name``)."""
    content = json.loads(path.read_text())
    for place, value in changes.items():
        *keys, last = place.split("__")
        part = content
        for key in keys:
            part = part[key]
        part[last] = value
    path.write_text(json.dumps(content))


def dom(page: Path, fragment: str = "", *flags: str) -> tuple[str, str]:
    """The document as Chromium has it after its scripts, and what it said meanwhile."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", *flags]
    command += ["--virtual-time-budget=3000", "--dump-dom", f"{page.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
