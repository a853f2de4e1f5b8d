"""Why runs failed, in few words: the same fault in a hundred runs is one group."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Why = Literal["oom", "timeout", "node_fail", "error"]
WHYS: tuple[Why, ...] = get_args(Why)

_MEMORY_SIGNS = ("out of memory", "outofmemory", "oom", "cannot allocate memory", "memoryerror")
_OF_SLURM: dict[str, Why] = {
    "OUT_OF_MEMORY": "oom",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_fail",
}


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Runs that failed alike. ``fingerprint`` is the same for the same fault at the same place in the code."""

    fingerprint: str
    why: Why
    example: str
    run_ids: tuple[str, ...]


def classify(event: Mapping[str, Any], slurm_state: str | None = None) -> Why:
    """What a failed or lost run died of: Slurm's word for its job goes before the record's."""
    if slurm_state in _OF_SLURM:
        return _OF_SLURM[slurm_state]
    text = f"{event.get('class', '')} {event.get('message', '')}".lower()
    return "oom" if any(sign in text for sign in _MEMORY_SIGNS) else "error"


def fingerprint(event: Mapping[str, Any]) -> str:
    """8 hex digits for an error: its class, its message without numbers, and the places of its traceback without lines."""
    places = re.findall(r'File "[^"]*?([^/"]+)", line \d+, in (\S+)', str(event.get("traceback", "")))
    message = re.sub(r"0x[0-9a-f]+|\d+", "#", str(event.get("message", "")).split("\n")[0])
    text = "\n".join([str(event.get("class", "")), message, *(f"{file} {function}" for file, function in places)])
    return hashlib.blake2b(text.encode()).hexdigest()[:8]


def group_failures(events: Mapping[str, Mapping[str, Any]], slurm_states: Mapping[str, str]) -> list[FailureGroup]:
    """Failed runs (run id -> the event that ended it) by fault, the largest group first."""
    groups: dict[tuple[str, Why], list[str]] = {}
    for run_id, event in events.items():
        groups.setdefault((fingerprint(event), classify(event, slurm_states.get(run_id))), []).append(run_id)
    found = [FailureGroup(mark, why, _first_line(events[runs[0]]), tuple(runs)) for (mark, why), runs in groups.items()]
    return sorted(found, key=lambda group: (-len(group.run_ids), group.fingerprint))


def _first_line(event: Mapping[str, Any]) -> str:
    words = [str(event[key]).split("\n")[0] for key in ("class", "message") if event.get(key)]
    return ": ".join(words)
