"""From records to tables: what was measured, over how many seeds, and what must not be compared.

The functions are loaded when they are first asked for: ``normhpc status`` needs no pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normhpc.results.formats import render as render
    from normhpc.results.metrics import load_metrics as load_metrics
    from normhpc.results.output import collect as collect
    from normhpc.results.probes import load_probes as load_probes
    from normhpc.results.ranking import rank_methods as rank_methods
    from normhpc.results.runs import load_runs as load_runs
    from normhpc.results.status import sweep_statuses as sweep_statuses
    from normhpc.results.summary import summarize as summarize

# no module here bears the name of a function: importing it would hide the function
_HOMES = {
    "collect": "output",
    "load_metrics": "metrics",
    "load_probes": "probes",
    "load_runs": "runs",
    "rank_methods": "ranking",
    "render": "formats",
    "summarize": "summary",
    "sweep_statuses": "status",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
