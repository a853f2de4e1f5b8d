"""Results of analyses, read again as they were kept."""

from pathlib import Path

import numpy as np
import pytest
from results.fabricate import new_run

from normhpc.errors import InputError
from normhpc.posthoc.kept import Finding, keep
from normhpc.posthoc.load import load_kept


def test_numbers_and_arrays_come_back(tmp_path: Path) -> None:
    folders = [new_run(tmp_path, {"seed": seed}) for seed in range(2)]
    yes = np.array([True, False, True])
    arrays = {"rows": np.arange(3), "maps": np.ones((3, 2, 2), np.float16), "labels": np.arange(3) + 1}
    arrays |= {"classes": np.zeros(3, np.int64), "right": yes, "counted": yes, "zero": ~yes}
    finding = Finding(method="", values={"a": np.float64(1.5)}, units={}, n={}, headline="", arrays=arrays)
    keep(folders[1], "saliency", finding, {"weights": {}, "images_asked": None})
    found = load_kept([tmp_path], "saliency")
    assert list(found) == [folders[1].path.name]
    [own] = found.values()
    assert own.document["values"] == {"a": 1.5}
    assert own.folder.path == folders[1].path
    assert own.arrays().keys() == arrays.keys()
    for name, array in own.arrays().items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])
    file = folders[1].path / "posthoc" / "saliency.npz"
    file.write_bytes(b"PK damaged")
    with pytest.raises(InputError) as caught:
        own.arrays()
    assert str(caught.value) == (
        f"{file}: expected a result of the analysis saliency, got something else; "
        f"normhpc analyze {folders[1].path} --what saliency --again makes it anew"
    )
