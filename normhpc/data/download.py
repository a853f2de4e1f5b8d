"""Official archives through torchvision."""

from pathlib import Path

from normhpc.data.files import path_error


def download(dataset: str, folder: Path) -> None:
    """Let the class ``dataset`` of torchvision fetch and unpack its files into ``folder``.

    Raises :class:`~normhpc.errors.DataError` when it cannot.
    """
    # Here, because only downloads need torchvision and its import takes a second.
    from torchvision import datasets

    try:
        getattr(datasets, dataset)(root=folder, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise path_error(
            f"{dataset} could not be downloaded into {folder} ({error}); "
            "fetch it where there is a network and set data.path to it"
        ) from error
