"""What runs died of, and which of them died alike."""

import pytest

from normhpc.results.failures import FailureGroup, classify, fingerprint, group_failures

TRACEBACK = (
    'Traceback\n  File "/a/b/step.py", line {line}, in train_step\n    x\n  File "/a/norm.py", line 7, in forward\n'
)


def event(message: str, line: int = 3, kind: str = "RuntimeError") -> dict[str, str]:
    return {"class": kind, "message": message, "traceback": TRACEBACK.format(line=line)}


@pytest.mark.parametrize(
    ("found", "slurm", "why"),
    [
        (event("CUDA out of memory. Tried to allocate 20 MiB"), None, "oom"),
        ({"class": "OutOfMemoryError", "message": ""}, None, "oom"),
        ({"class": "OSError", "message": "[Errno 12] Cannot allocate memory"}, None, "oom"),
        (event("mat1 and mat2 do not fit"), None, "error"),
        ({"message": "rank 0 on n1 was killed by SIGKILL"}, "OUT_OF_MEMORY", "oom"),
        ({}, "TIMEOUT", "timeout"),
        ({}, "NODE_FAIL", "node_fail"),
        ({}, "COMPLETED", "error"),
    ],
)
def test_cause(found, slurm, why):
    assert classify(found, slurm) == why


def test_a_fault_is_the_same_wherever_the_numbers_differ():
    first = fingerprint(event("groups 7 do not divide 16 at 0x7f12", line=3))
    assert first == fingerprint(event("groups 5 do not divide 32 at 0x9a", line=90))
    assert len(first) == 8
    assert first != fingerprint(event("groups 7 do not divide 16 at 0x7f12", kind="ValueError"))
    assert first != fingerprint(event("channels 7 do not divide 16 at 0x7f12"))
    assert first != fingerprint({**event("groups 7 do not divide 16 at 0x7f12"), "traceback": ""})


def test_five_hundred_failures_are_a_few_groups():
    events = {f"{number:016x}": event(f"bad value {number}", line=number) for number in range(400)}
    events |= {f"f{number:015x}": event("CUDA out of memory") for number in range(100)}
    groups = group_failures(events, {"f" + "0" * 15: "NODE_FAIL"})
    assert [(group.why, len(group.run_ids)) for group in groups] == [("error", 400), ("oom", 99), ("node_fail", 1)]
    assert isinstance(groups[0], FailureGroup)
    assert groups[0].example == "RuntimeError: bad value 0"
