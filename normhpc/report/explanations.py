"""Explanations: pictures of one run of each method side by side, and the numbers that say what they are worth."""

from collections.abc import Sequence

from normhpc.report.elements import Section, Table, bullets, escaped
from normhpc.report.finding import Found
from normhpc.report.findings import finding_tables
from normhpc.report.gallery import galleries
from normhpc.report.reliability import reliability_figure
from normhpc.report.study import Study


def explanations_section(study: Study, found: Sequence[Found], notes: Sequence[str]) -> Section | None:
    """Pictures and numbers of what was ``found``, with ``notes``; None when there is nothing to tell."""
    parts: list[str | Table] = [*galleries(study, found)]
    parts += reliability_figure(study, found)
    methods = []
    for method, table in finding_tables(study, found):
        parts.append(table)
        methods.append(f"<dt>{escaped(table.name.removeprefix('posthoc-'))}</dt><dd>{escaped(method)}</dd>")
    if methods:
        parts.append(f"<details><summary>How these were computed</summary><dl>{''.join(methods)}</dl></details>")
    if not parts and not notes:
        return None
    return Section("explanations", "Explanations", (*parts, bullets(notes, "notes")))
