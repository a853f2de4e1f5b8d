"""A rank that trains nothing: it keeps the record that a training would keep, and starts in a blink.

``python fake_rank.py RUN_DIR ...``, several one after another. FAKE_RANKS is JSON: the name of the run's folder, or its seed, to its behaviour:

    epochs, epoch_seconds   how long it lives; it goes on from its checkpoint and saves itself when asked to stop
    save_seconds            how long it takes to save itself
    faults                  rank to what it does after its start: die, raise, raise_once, silent, deaf
    say                     text that every rank prints

Only :mod:`normhpc.launch.worker` is real: how a rank notices that its launcher is gone.
"""

import contextlib
import fcntl
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

from normhpc.launch.worker import INTERRUPTED, watched_launcher

TRACED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
RANK = int(os.environ["RANK"])


class Stop:
    reason: str | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name


def append(path: Path, **row: object) -> None:
    with path.open("a") as file:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        file.write(json.dumps({"time": now, **row}) + "\n")


def behaviour_of(run: Path) -> dict:
    known = json.loads(os.environ.get("FAKE_RANKS", "{}"))
    if run.name in known:
        return known[run.name]
    with contextlib.suppress(FileNotFoundError):
        return known.get(str(json.loads((run / "run.json").read_text())["config"]["seed"]), known.get("default", {}))
    return known.get("default", {})


def trace(what: str, run: Path) -> None:
    row = {"what": what, "run": run.name, "pid": os.getpid(), "at": time.monotonic()}
    append(Path(os.environ["FAKE_TRACE"]), **row, **{name: os.environ.get(name) for name in TRACED})


def fail(run: Path, kind: str, attempt: int) -> None:
    events = run / "events.jsonl"
    while kind and events.read_text().rfind('"started"') < events.read_text().rfind('"submitted"'):
        time.sleep(0.01)  # rank 0 tells first
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "silent":
        os._exit(3)
    if kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if kind == "raise" or (kind == "raise_once" and attempt == 1):
        details = {"class": "ValueError", "message": "no good\nat all", "rank": RANK}
        append(events, event="failed", **details)
        print("Traceback: no good", flush=True)
        os._exit(1)


def train(run: Path, behaviour: dict, stop: Stop) -> int:
    leads, events, checkpoint = RANK == 0, run / "events.jsonl", run / "checkpoint.pt"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    attempt = 1 + events.read_text().count('"event": "started"')
    if leads:
        append(
            events,
            attempt=attempt,
            event="resumed" if done else "started",
            host=platform.node(),
            epoch=done,
            step=0,
            pids=[os.getpid()],
        )
    fail(run, behaviour.get("faults", {}).get(str(RANK), ""), attempt)
    for epoch in range(done, behaviour.get("epochs", 1)):
        until = time.monotonic() + behaviour.get("epoch_seconds", 0.1)
        while time.monotonic() < until and stop.reason is None:
            time.sleep(0.01)
        if stop.reason is not None:
            time.sleep(behaviour.get("save_seconds", 0))
            if leads:
                append(events, event="preempted", reason=stop.reason, epoch=epoch, step=0)
            return INTERRUPTED
        print(f"epoch {epoch + 1}", flush=True)
        if leads:
            append(run / "metrics.jsonl", epoch=epoch + 1, step=epoch + 1, split="val", loss=0.5, top1=0.25)
            checkpoint.write_text(str(epoch + 1))
    if leads:
        append(events, event="finished")
        summary = {"state": "finished", "final": {"test_top1": 0.75}, "seconds": 36.0}
        (run / "summary.json").write_text(json.dumps(summary))
    return 0


def main() -> int:
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR2])
    watch = watched_launcher()
    if watch is not None:
        watch.request = stop
    return max(keep(Path(run), stop) for run in sys.argv[1:])


def keep(run: Path, stop: Stop) -> int:
    behaviour = behaviour_of(run)
    trace("start", run)
    print(behaviour.get("say", ""), end="", flush=True)
    with (run / "events.jsonl").open() as lock:
        if RANK == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
        code = train(run, behaviour, stop)
    trace("end", run)
    return code


if __name__ == "__main__":
    sys.exit(main())
