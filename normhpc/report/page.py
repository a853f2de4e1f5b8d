"""The page: all sections of a study in one file that needs nothing else."""

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from normhpc.errors import InputError, Problem
from normhpc.files import replace_file
from normhpc.report.comparison import compare
from normhpc.report.cost import cost_section
from normhpc.report.curves import curves_section
from normhpc.report.diagrams import ranking_section
from normhpc.report.disagreement import disagreement_section
from normhpc.report.elements import Section, Table, escaped, section_html
from normhpc.report.explanations import explanations_section
from normhpc.report.findings import findings
from normhpc.report.heatmap import heatmap_section
from normhpc.report.parallel import parallel_section
from normhpc.report.provenance import failures_section, provenance_section
from normhpc.report.robustness import robustness_section
from normhpc.report.sentences import summary_section
from normhpc.report.study import Study, load_study
from normhpc.report.tables import results_section, runs_section
from normhpc.report.time_to_target import time_section


def write_report(
    dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], metric: str | None = None
) -> tuple[int, int]:
    """Write the page about the runs in ``dirs`` to ``out``, whole or not at all. Returns its runs and its bytes.

    Raises :class:`InputError` for folders without runs, a metric that is not there, a place that cannot be written.
    """
    target = _checked_target(Path(out))
    study = load_study(dirs, metric)
    page = page_html(study, sections_of(study)).encode("utf-8", "replace")
    replace_file(target, lambda file: file.write(page))
    return len(study.runs), len(page)


def sections_of(study: Study) -> list[Section]:
    """Everything the page says, in order."""
    found = [compare(study, block) for block in range(len(study.blocks))]
    comparisons = [comparison for comparison in found if comparison is not None]
    analysed, notes = findings(study)
    sections = [
        summary_section(study, comparisons),
        results_section(study, comparisons),
        curves_section(study),
        cost_section(study),
        time_section(study),
        ranking_section(study),
        heatmap_section(study),
        parallel_section(study),
        explanations_section(study, analysed, notes),
        robustness_section(study, analysed),
        disagreement_section(study),
        failures_section(study),
        runs_section(study),
        provenance_section(study),
    ]
    return [section for section in sections if section is not None]


def tables_of(sections: Sequence[Section]) -> list[Table]:
    """All tables of ``sections``, in order."""
    return [part for section in sections for part in section.parts if isinstance(part, Table)]


def page_html(study: Study, sections: Sequence[Section]) -> str:
    """The complete document. What a browser may do with it stands in its first lines: nothing from anywhere else."""
    style, script = _package_file("report.css"), _package_file("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    name = escaped(", ".join(dict.fromkeys(study.runs["sweep"])))
    links = "".join(f'<li><a href="#{section.name}">{escaped(section.title)}</a></li>' for section in sections)
    body = "".join(section_html(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="normhpc-metric" content="{escaped(study.metric)}">
<link rel="icon" href="data:,">
<title>{name} - normhpc</title>
<style>{style}</style>
</head>
<body>
<header><h1>{name}</h1><nav aria-label="sections"><ul>{links}</ul></nav></header>
<main>
{body}</main>
<script>{script}</script>
</body>
</html>
"""


@cache
def _package_file(name: str) -> str:
    return files("normhpc.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _checked_target(target: Path) -> Path:
    if target.is_dir():
        raise InputError(Problem("expected a file to write, this is a folder", path="--out", file=str(target)))
    if not target.parent.is_dir():
        raise InputError(Problem("there is no such folder to write into", path="--out", file=str(target.parent)))
    return target
