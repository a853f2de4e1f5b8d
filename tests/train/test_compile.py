"""``model.compile``: the same numbers but for rounding."""

import math
import shutil

import pytest
from support.trainings import TINY, exit_codes, metrics, new_run, start_ranks

from normhpc.train import run

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile makes C++ on a CPU, and there is no compiler for it",
)


def test_compiled_training_follows_the_eager_one(tmp_path):
    changes = {"norm": {"name": "group", "groups": 2}, "optim": {"lr": 0.01}}
    eager = new_run(tmp_path / "eager", TINY, changes, {"model": {"name": "convnet", "widths": [4]}})
    compiled = new_run(
        tmp_path / "compiled", TINY, changes, {"model": {"name": "convnet", "widths": [4], "compile": True}}
    )
    run(eager.path)
    cache = str(tmp_path / "cache")
    codes = exit_codes(start_ranks(compiled, TORCHINDUCTOR_CACHE_DIR=cache, TORCHINDUCTOR_COMPILE_THREADS="1"), 240)
    assert codes == [0], compiled.log.read_text()
    rows, others = metrics(eager), metrics(compiled)
    assert rows.keys() == others.keys()
    for place, row in rows.items():
        assert math.isclose(row["loss"], others[place]["loss"], rel_tol=1e-4), place
    assert (tmp_path / "cache").is_dir()  # it was compiled indeed
