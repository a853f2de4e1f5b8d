"""What the parts of a configuration must agree on. Each check names the fields it reads.

The sweep language runs a check once per distinct combination of those fields, so a check must depend on
nothing else. The error names the dotted path at fault, relative to the configuration.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from normhpc.config.data import Synthetic
from normhpc.config.norm import ChannelGroups, InstanceNorm
from normhpc.config.training import MultiStep, StandardAugment


class Check(NamedTuple):
    """``find`` takes the values of ``fields`` and gives the dotted path at fault and what is wrong, or None."""

    fields: tuple[str, ...]
    find: Callable[..., tuple[str, str] | None]


def _groups_divide_channels(norm: Any, model: Any) -> tuple[str, str] | None:
    if not isinstance(norm, ChannelGroups):
        return None
    widths = sorted(set(model.norm_widths()))
    field = "groups" if norm.groups is not None else "group_size"
    divisor = norm.groups if norm.groups is not None else norm.group_size
    assert divisor is not None
    odd = [width for width in widths if width % divisor]
    if not odd:
        return None
    fitting = [size for size in range(1, min(widths) + 1) if all(width % size == 0 for width in widths)]
    return (
        f"norm.{field}",
        f"{field} {divisor} does not divide the {odd[0]} channels of a layer of {model.name}; "
        f"what divides all its widths ({', '.join(map(str, widths))}): {', '.join(map(str, fitting))}",
    )


def _images_survive_pooling(model: Any, data: Any) -> tuple[str, str] | None:
    if model.name != "convnet":
        return None
    _, height, width = data.image_shape()
    halvings = len(model.widths)
    if min(height, width) >> halvings:
        return None
    return (
        "model.widths",
        f"{halvings} layers halve a {height}x{width} image of {data.name} to nothing; "
        f"use at most {min(height, width).bit_length() - 1}",
    )


def _crop_fits_image(augment: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(augment, StandardAugment):
        return None
    _, height, width = data.image_shape()
    if augment.crop_padding <= min(height, width):
        return None
    return (
        "augment.crop_padding",
        f"expected at most the image's {min(height, width)} pixels, got {augment.crop_padding}",
    )


def _schedule_fits_epochs(schedule: Any, epochs: int) -> tuple[str, str] | None:
    if schedule.warmup_epochs > epochs:
        return (
            "schedule.warmup_epochs",
            f"expected at most the run's {epochs} epochs, got {schedule.warmup_epochs:g}",
        )
    if isinstance(schedule, MultiStep):
        if list(schedule.milestones) != sorted(set(schedule.milestones)):
            return ("schedule.milestones", f"expected ascending epochs, got {list(schedule.milestones)}")
        if schedule.milestones[-1] >= epochs:
            return (
                "schedule.milestones",
                f"expected epochs before the run's end at {epochs}, got {schedule.milestones[-1]}",
            )
    return None


def _micro_batches_hold_images(optim: Any, batch_size: int) -> tuple[str, str] | None:
    if optim.accumulate <= batch_size:
        return None
    return (
        "optim.accumulate",
        f"{optim.accumulate} micro-batches need at least as many images, but batch_size is {batch_size}",
    )


def _batch_fits_data(data: Any, batch_size: int) -> tuple[str, str] | None:
    if not isinstance(data, Synthetic):
        return None
    rows = data.images - int(data.images * data.val_fraction)
    if batch_size <= rows:
        return None
    return ("batch_size", f"expected at most the {rows} training images of synthetic, got {batch_size}")


def _instance_has_pixels(norm: Any, model: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(norm, InstanceNorm) or model.name == "convnet":
        return None
    _, height, width = data.image_shape()
    if min(height, width) > 4:
        return None
    return (
        "norm",
        f"the last stage of {model.name} sees {data.name} images of {height}x{width} as single pixels, "
        "over which an instance norm is always 0; use larger images or another norm",
    )


CHECKS = (
    Check(("schedule", "epochs"), _schedule_fits_epochs),
    Check(("optim", "batch_size"), _micro_batches_hold_images),
)
"""What makes a configuration contradict itself: never a :class:`~normhpc.config.RunConfig`."""

FITS = (
    Check(("norm", "model"), _groups_divide_channels),
    Check(("model", "data"), _images_survive_pooling),
    Check(("augment", "data"), _crop_fits_image),
    Check(("data", "batch_size"), _batch_fits_data),
    Check(("norm", "model", "data"), _instance_has_pixels),
)
"""What makes a sound configuration impossible to train with this network and these images: refused when it is planned."""


def findings(checks: Iterable[Check], fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every (dotted path, message) on which the top-level ``fields`` of a configuration fail ``checks``."""
    found = (check.find(*(fields[name] for name in check.fields)) for check in checks)
    return [finding for finding in found if finding is not None]
