import h5py
import numpy as np
import pytest
from results.fabricate import new_run

from normhpc.errors import InputError
from normhpc.record.probes import Column, ProbeFile, ProbePlan
from normhpc.results import load_probes

COLUMNS = (Column("stem.conv", "conv", "conv_std"), Column("stem.slot", "activation", "activation_rank"))
KEYS = ["run_id", "layer", "kind", "measure", "epoch", "step", "value"]


def probed_run(tmp_path, seed, values, columns=COLUMNS, quantiles=()):
    """A run of two epochs of three steps, measured every second step."""
    folder = new_run(tmp_path, {"seed": seed})
    file = ProbeFile(folder.probes, ProbePlan(2, 3, 2, quantiles), {"run_id": folder.path.name})
    file.write_rows(0, columns, np.array(values, np.float32), np.full(len(values), 4, np.int32))
    if quantiles:
        file.write_features(1, np.array([0.5] * len(quantiles)), columns)
    return folder


def test_every_number_is_a_row(tmp_path):
    folder = probed_run(tmp_path, 0, [[1, 2], [3, np.nan], [5, 6]], quantiles=(0.25, 1.0))
    frame = load_probes(tmp_path)
    assert list(frame.columns) == KEYS
    run_id = folder.path.name
    conv, rank = (run_id, *COLUMNS[0]), (run_id, *COLUMNS[1])
    rows = list(frame.itertuples(index=False, name=None))
    assert rows[:3] == [(*conv, 0, 0, 1.0), (*rank, 0, 0, 2.0), (*conv, 0, 2, 3.0)]
    assert rows[3][:-1] == (*rank, 0, 2)
    assert np.isnan(rows[3][-1])
    assert rows[4:] == [
        (*conv, 1, 4, 5.0),
        (*rank, 1, 4, 6.0),
        (run_id, "", "features", "quantile_0.25", 1, 3, 0.5),
        (run_id, "", "features", "quantile_1.0", 1, 3, 0.5),
    ]
    assert frame.attrs["notes"] == []
    assert [str(frame[key].dtype) for key in KEYS] == ["category"] * 4 + ["int64", "int64", "float64"]


def test_only_rows_that_hold_are_there(tmp_path):
    folder = probed_run(tmp_path, 0, [[1, 2], [3, 4]], quantiles=(0.5,))
    assert load_probes(tmp_path)["step"].tolist() == [0, 0, 2, 2, 3]
    ProbeFile(folder.probes, ProbePlan(2, 3, 2, (0.5,)), {"run_id": folder.path.name}).rewind(step=1, epoch=0)
    assert load_probes(tmp_path)["value"].tolist() == [1, 2]


def test_runs_with_other_layers_and_without_any(tmp_path):
    first = probed_run(tmp_path, 0, [[1, 2]])
    new_run(tmp_path, {"seed": 1})
    last = probed_run(tmp_path, 2, [[7]], columns=(Column("head", "norm", "norm_mean"),))
    frame = load_probes(tmp_path)
    assert frame["run_id"].tolist() == [first.path.name] * 2 + [last.path.name]
    assert frame["layer"].tolist() == ["stem.conv", "stem.slot", "head"]
    assert frame["value"].tolist() == [1, 2, 7]
    assert load_probes(last.path)["measure"].tolist() == ["norm_mean"]


def test_no_probes_at_all_give_an_empty_table_of_the_same_form(tmp_path):
    new_run(tmp_path, {"seed": 0})
    frame = load_probes(tmp_path)
    assert frame.empty
    assert list(frame.columns) == KEYS
    assert frame["value"].dtype == "float64"


def test_damaged_files_are_told(tmp_path):
    probed_run(tmp_path, 0, [[1, 2]])
    damaged = new_run(tmp_path, {"seed": 1})
    damaged.probes.write_bytes(b"no HDF5")
    frame = load_probes(tmp_path)
    assert frame["value"].tolist() == [1, 2]
    (note,) = frame.attrs["notes"]
    assert note.startswith(f"{damaged.probes}: not HDF5 (")
    assert note.endswith("delete it, what it held is lost but the run goes on")


def test_quantiles_that_are_near_each_other_keep_their_names(tmp_path):
    probed_run(tmp_path, 0, [[1, 2]], quantiles=(0.9999999, 0.99999999))
    assert load_probes(tmp_path)["measure"].tolist()[2:] == ["quantile_0.9999999", "quantile_0.99999999"]


def test_files_that_the_system_does_not_give_are_told(tmp_path, monkeypatch):
    folder = probed_run(tmp_path, 0, [[1, 2]])

    def opened(*args, **kwargs):
        raise OSError(24, "[Errno 24] Unable to synchronously open file (errno = 24)")

    monkeypatch.setattr(h5py, "File", opened)
    frame = load_probes(tmp_path)
    assert frame.empty
    (note,) = frame.attrs["notes"]
    assert note == f"{folder.probes}: not read (Too many open files); load it again when it can be"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError):
        load_probes(tmp_path / "nowhere")
