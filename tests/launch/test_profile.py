"""Profiles of clusters: what ships is valid, what is wrong is told with its place."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from normhpc.errors import InputError
from normhpc.launch.profile import Profile, load_profile, profile_schema

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "slurm" / "profiles").glob("*.yaml"))


def test_the_four_profiles_ship():
    assert [path.stem for path in SHIPPED] == ["eight_gpu_nodes", "four_gpu_infiniband", "generic", "minicluster"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_is_valid_and_says_what_it_is_for(path):
    assert load_profile(str(path)).description
    jsonschema.validate(yaml.safe_load(path.read_text()), profile_schema())
    first = path.read_text().splitlines()[0]
    assert (path.parent / first.partition("$schema=")[2]).resolve() == ROOT / "docs" / "schema" / "profile.json"


def test_the_schema_for_editors_is_up_to_date():
    assert json.loads((ROOT / "docs" / "schema" / "profile.json").read_text()) == profile_schema()


def test_every_field_is_documented():
    assert [name for name, field in Profile.model_fields.items() if not field.description] == []


def test_by_name_by_file_and_not_at_all(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_profile("minicluster").partition == "gpu"
    assert load_profile("slurm/profiles/four_gpu_infiniband.yaml").sbatch == {"exclusive": True}
    assert load_profile(None) == Profile()
    with pytest.raises(InputError) as error:
        load_profile("minicluste")
    assert str(error.value) == (
        "slurm/profiles/minicluste.yaml: cannot be read: No such file or directory, did you mean 'minicluster'?; "
        "there are: eight_gpu_nodes, four_gpu_infiniband, generic, minicluster"
    )


def test_mistakes_are_told_with_their_places(tmp_path):
    file = tmp_path / "here.yaml"
    file.write_text("partition: gpu\ngpus: gress\nmax_paralel: 4\nsetup: [module load cuda, 3]\nsignal_seconds: 0\n")
    with pytest.raises(InputError) as error:
        load_profile(str(file))
    told = [str(problem).removeprefix(str(file)) for problem in error.value.problems]
    assert told[1].startswith(":3:1: max_paralel: unknown key 'max_paralel', did you mean 'max_parallel'? allowed: ")
    assert [told[0], *told[2:]] == [
        ":2:7: gpus: expected one of gres, gpus-per-node, gpus-per-task, none, got 'gress', did you mean 'gres'?",
        ":4:27: setup[1]: expected a string, got 3",
        ":5:17: signal_seconds: expected a positive integer, got 0",
    ]
    file.write_text("- gpu\n")
    with pytest.raises(InputError) as error:
        load_profile(str(file))
    assert str(error.value) == f"{file}: expected a mapping with the fields of a profile"
