"""Analyses computed by jobs of a real Slurm are those computed here."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.slurm_sweeps import SlurmSweep

if TYPE_CHECKING:
    from conftest import Minicluster

WHAT = ("predictions", "calibration", "loss_line")


def results(runs: Path) -> dict[str, dict[str, Any]]:
    """Every result below ``runs`` without what tells when it was made."""
    found = {}
    for file in sorted(runs.glob("*/posthoc/*.json")):
        document = json.loads(file.read_text())
        assert document.pop("created")
        assert document.pop("device") == "cpu"
        found[f"{file.parents[1].name}/{file.stem}"] = document
    return found


def test_jobs_compute_what_the_local_command_computes(minicluster: "Minicluster", tmp_path: Path) -> None:
    sweep = SlurmSweep(minicluster, tmp_path, seeds=2, real=True, profile={"mem_gb_per_gpu": 1.5})
    sweep.call(sweep.command("sweep", sweep.path, "--local", "--slots", 1))
    shutil.copytree(sweep.runs, tmp_path / "here" / "s")
    asked = ("--what", ",".join(WHAT), "--images", 32, "--device", "cpu")
    single = sweep.env | {"OMP_NUM_THREADS": "1"}  # as the jobs, so that sums are added in the same order
    sweep.call(sweep.command("analyze", "here", *asked), env=single)

    cluster = ("--partition", "debug", "--profile", "./profile.yaml", "--set", "resources.runs_per_job=1")
    submit = sweep.command("analyze", "runs", *asked, *cluster)
    told = sweep.call([*submit, "--follow"]).err.splitlines()
    assert told[0].startswith(f"s: {', '.join(WHAT)} of 2 runs in 2 jobs, 2 submitted; output: ")
    assert told[-1].endswith("  2 ended")
    output = Path(told[0].rpartition("output: ")[2])
    lines = output.read_text().splitlines()
    assert [sum(f": {what}: " in line for line in lines) for what in WHAT] == [2, 2, 2]
    assert results(sweep.runs) == results(tmp_path / "here" / "s")
    assert len(results(sweep.runs)) == 6
    assert sweep.call(submit).err == "nothing to submit: 2 runs with all of it\n"
    # training knows nothing of it
    assert "nothing to submit" in sweep.sweep().err

    held = "{partition: debug, gpus: gres, mem_gb_per_gpu: 1.5, sbatch: {hold: true}}"
    (tmp_path / "held.yaml").write_text(held)
    sweep.call(sweep.command("analyze", "runs", *asked, "--again", "--profile", "./held.yaml"))
    assert [(row["analysis"], row["submitted"]) for row in analyses(sweep)] == [(what, 2) for what in WHAT]
    told = "s: 0 runs cancelled\ns: 1 job of normhpc analyze cancelled, at 2 runs\n"
    assert sweep.call(sweep.command("cancel", "s")).err == told
    assert minicluster.run("squeue", "--noheader").stdout == ""
    assert analyses(sweep) == []


def analyses(sweep: SlurmSweep) -> list[dict[str, Any]]:
    """What ``normhpc status`` says of them."""
    [status] = json.loads(sweep.call(sweep.command("status", "--json")).out)
    found: list[dict[str, Any]] = status["analyses"]
    return found
