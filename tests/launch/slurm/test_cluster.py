"""What Slurm says of itself."""

import pytest
from support.fake_slurm import FakeSlurm

from normhpc.errors import InputError
from normhpc.launch.slurm.cluster import Cluster, Partition, SlurmError, minutes_of

SINFO = """\
gpu*|1-00:00:00|4|64|512000|gpu:a100:4(S:0-1)
gpu*|1-00:00:00|2|32+|256000+|gpu:v100:2,shard:8
mig|infinite|1|8|64000|gpu:1g.5gb:7
cpu|30:00|9|128|1000000|(null)
"""

CONFIG = "Configuration data as of 2026\nClusterName             = here\nMaxArraySize            = 1001\nMaxJobCount             = 10000\n"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("infinite", None),
        ("UNLIMITED", None),
        ("10", 10),
        ("30:00", 30),
        ("2:00:00", 120),
        ("1-00:00:00", 1440),
        ("2-03:04:00", 2 * 1440 + 184),
        ("1-12", 1440 + 720),
    ],
)
def test_times(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


def test_partitions(slurm: FakeSlurm) -> None:
    slurm.answer("sinfo", SINFO)
    assert Cluster().partitions == [
        Partition("gpu", True, 1440, 6, 64, 512000, 4),
        Partition("mig", False, None, 1, 8, 64000, 7),
        Partition("cpu", False, 30, 9, 128, 1000000, 0),
    ]
    assert Cluster().partition(None).name == "gpu"
    with pytest.raises(InputError, match="--partition gup: no such partition; there are: gpu, mig, cpu"):
        Cluster().partition("gup")


def test_a_cluster_that_does_not_answer(slurm: FakeSlurm) -> None:
    """Where Slurm's commands are installed and no cluster is set up, the first of them says no more than that."""
    slurm.answer("sinfo", err="sinfo: fatal: Could not establish a configuration source\n", code=1)
    for options, locally in (((), "with --local"), (("without --partition",), "without --partition")):
        with pytest.raises(SlurmError) as caught:
            Cluster(*options).partition(None)
        assert str(caught.value) == (
            "sinfo failed: sinfo: fatal: Could not establish a configuration source; launch where Slurm answers, or on this "
            f"machine {locally}"
        )


def limits(slurm: FakeSlurm, associations: str, qos: str = "", queued: int = 0, mine: int = 0) -> int:
    slurm.answer("scontrol", CONFIG)
    slurm.answer("sacctmgr", associations, "assoc")
    slurm.answer("sacctmgr", qos, "qos")
    slurm.answer("squeue", "x\n" * queued)
    slurm.answer("squeue", "5|0|RUNNING|None|nh-x-0-0\n" * mine, "--user")
    return Cluster().free_submissions()


@pytest.mark.parametrize(
    ("associations", "qos", "queued", "mine", "free"),
    [
        ("|normal\n", "normal|\n", 0, 0, 10000),
        ("|normal\n", "normal|\n", 9990, 0, 10),
        ("5|normal\n", "normal|\n", 3, 2, 3),
        ("5|normal\n", "normal|4\nlong|1\n", 3, 2, 2),
        ("|normal,long\n", "normal|4\nlong|1\n", 3, 2, 0),
    ],
)
def test_room(slurm: FakeSlurm, associations: str, qos: str, queued: int, mine: int, free: int) -> None:
    assert limits(slurm, associations, qos, queued, mine) == free
    assert "cluster=here" in slurm.calls("sacctmgr")[0]
    # finished jobs that the controller remembers are in its MaxJobCount
    assert [call for call in slurm.calls("squeue") if "--user" not in call and "--states=all" in call]


def test_cluster_without_accounts(slurm: FakeSlurm) -> None:
    limits(slurm, "")
    slurm.answer("sacctmgr", err="sacctmgr: error: no slurmdbd\n", code=1)
    assert Cluster().free_submissions() == 10000


def test_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no Slurm on this machine"):
        Cluster()
