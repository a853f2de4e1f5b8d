"""``normhpc report``: a page is written, or one that is there is verified."""

import os
import sys
from collections.abc import Sequence

from normhpc.report.page import write_report
from normhpc.report.verify import verify_report

_MOST_TOLD = 20
"""Differences that are printed."""


def write_or_verify(
    dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], metric: str | None, *, verify: bool
) -> int:
    """Write the page about the runs in ``dirs`` to ``out``, or ``verify`` the one that is there.

    Returns the exit code: 1 when a verified page differs from the records. Raises as
    :func:`~normhpc.report.page.write_report` and :func:`~normhpc.report.verify.verify_report`.
    """
    place = os.fspath(out)
    if not verify:
        runs, size = write_report(dirs, out, metric)
        print(f"{place}: {runs} runs, {size / 1e6:.2f} MB", file=sys.stderr)
        return 0
    verdict = verify_report(out, dirs, metric)
    differences = len(verdict.differences)
    for line in verdict.differences[:_MOST_TOLD]:
        print(f"error: {line}", file=sys.stderr)
    if differences > _MOST_TOLD:
        print(f"error: and {differences - _MOST_TOLD} more", file=sys.stderr)
    print(f"{place}: {verdict.cells:,} table cells, {differences:,} differences")
    return 1 if differences else 0
