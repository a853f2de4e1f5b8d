"""Golden sweeps: the exact runs, in order, that each file under ``golden/`` declares.

``golden/NAME.runs.txt`` is written by hand's command ``python tests/sweep/golden_text.py`` and never by a test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from config.test_identity import other_pythons
from sweep.golden_text import GOLDEN, golden_text
from sweep.naive import expand

from normhpc.config import RunConfig
from normhpc.files import canonical_json
from normhpc.sweep import load
from normhpc.sweep.yaml12 import parse

FILES = sorted(GOLDEN.glob("*.yaml"))
ROOT = Path(__file__).parents[2]


def test_there_are_enough_of_them():
    assert len(FILES) >= 40
    assert [file.stem for file in FILES] == [
        file.name.removesuffix(".runs.txt") for file in sorted(GOLDEN.glob("*.txt"))
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs(file):
    assert golden_text(load(file)) == file.with_suffix(".runs.txt").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_naive_expansion_gives_the_same_runs(file):
    naive = [(config.run_id, resources) for config, resources in expand(parse(file.read_text()).value)]
    assert [(run.run_id, run.resources) for run in load(file).runs()] == naive


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_fast_path_gives_what_the_configuration_gives(file):
    sweep = load(file)
    runs = list(sweep.runs())
    for run, config in zip(runs, sweep.expand(), strict=True):
        assert RunConfig.model_validate(json.loads(run.config_json)).run_id == run.run_id == config.run_id
        assert run.config_json == canonical_json(config.to_json())
        assert run.seed == config.seed
    assert sweep.count() == load(file).count() == len(runs)


def test_golden_runs_on_other_pythons():
    script = (
        "import json, sys; from normhpc.sweep import load\n"
        "print(json.dumps([[run.run_id for run in load(file).runs()] for file in sys.argv[1:]]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    expected = [[run.run_id for run in load(file).runs()] for file in FILES]
    tried = []
    for python in other_pythons():
        if subprocess.run([python, "-c", "import pydantic, yaml"], capture_output=True, check=False).returncode:
            continue
        command = [python, "-W", "error", "-c", script, *map(str, FILES)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert json.loads(answer.stdout) == expected, python
        tried.append(python)
    if not tried:
        pytest.skip("no other Python with pydantic and PyYAML on the PATH or in NORMHPC_TEST_PYTHONS")


def test_loading_a_sweep_imports_no_torch():
    script = (
        "import sys, normhpc.sweep, normhpc.sweep.schema; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
