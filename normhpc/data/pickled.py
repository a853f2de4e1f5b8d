"""Reading pickles that others made, without running what they may contain."""

import pickle
from pathlib import Path
from typing import Any

from normhpc.data.files import file_error

ARRAY_PARTS = {
    ("multiarray", "_reconstruct"),
    ("numeric", "_frombuffer"),
}
"""Functions of numpy's core that rebuild an array, by module and name."""


def read_pickle(file: Path) -> dict[str, Any]:
    """The dictionary in ``file``, its keys as text; it may hold numbers, text, bytes, lists and numpy arrays.

    Raises :class:`~normhpc.errors.DataError` when the file is cut short or damaged, or names anything but what
    rebuilds a numpy array, which is what a pickle that runs code has to do.
    """
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="bytes").load()
    except _ForbiddenError as error:
        raise file_error(file, f"refused: it wants to call {error}, which no archive of images needs") from None
    except Exception as error:  # a damaged pickle can fail in any way
        size = file.stat().st_size
        raise file_error(file, f"not a whole pickle, ends or breaks within its {size:,} bytes ({error})") from error
    if not isinstance(content, dict):
        raise file_error(file, f"expected a pickled dictionary, found {type(content).__name__}")
    return {_text(key): value for key, value in content.items()}


class _ForbiddenError(Exception):
    """A pickle names something that is not on the list."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        package, _, core_module = module.rpartition(".")
        # numpy 2 renamed its core; the old name still works there, with a warning.
        if package in ("numpy.core", "numpy._core") and (core_module, name) in ARRAY_PARTS:
            return super().find_class(f"numpy._core.{core_module}", name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise _ForbiddenError(f"{module}.{name}")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the pickle protocol of Python 2."""
    if encoding != "latin1":
        raise _ForbiddenError(f"codecs.encode to {encoding}")
    return text.encode(encoding)


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
