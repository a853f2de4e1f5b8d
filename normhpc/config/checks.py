"""What the parts of a configuration must agree on. Each check names the fields it reads.

The sweep language runs a check once per distinct combination of those fields, so a check must depend on
nothing else. The error names the dotted path at fault, relative to the configuration.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from normhpc.config.data import Shards
from normhpc.config.model import PlainConv, SmallNetwork, TorchvisionModel, Vit, ZooModel
from normhpc.config.model.zoo import torchvision_sites, unknown_network
from normhpc.config.norm import (
    BatchNorm,
    ChannelGroups,
    InstanceNorm,
    NoNorm,
    ScaledWeightStandardized,
    WeightNorm,
    WeightPart,
)
from normhpc.config.training import CrossEntropy, LayerProbes, MultiStep, Plateau, StandardAugment


class Check(NamedTuple):
    """``find`` takes the values of ``fields`` and gives the dotted path at fault and what is wrong, or None."""

    fields: tuple[str, ...]
    find: Callable[..., tuple[str, str] | None]


def _groups_divide_channels(norm: Any, model: Any) -> tuple[str, str] | None:
    if not isinstance(norm, ChannelGroups):
        return None
    widths = sorted(set(model.norm_widths()))
    odd = [width for width in widths if norm.groups_of(width) is None]
    if not odd:
        return None
    rule, value = norm.rule
    fitting = [size for size in range(1, min(widths) + 1) if all(width % size == 0 for width in widths)]
    return (
        f"norm.{rule}",
        f"{rule} {value:g} does not divide the {odd[0]} channels of a layer of {model.name}; "
        f"what divides all its widths ({', '.join(map(str, widths))}): {', '.join(map(str, fitting))}; "
        "indivisible: shrink takes the next number of groups that does",
    )


def _groups_are_listed_for_groups(norm: Any, model: Any) -> tuple[str, str] | None:
    if model.name != "vgg" or model.group_list is None or isinstance(norm, ChannelGroups):
        return None
    return (
        "model.group_list",
        f"{norm.name} has no groups of channels; use norm group or an EvoNorm S, or leave it out",
    )


def _method_on_weights_has_convolutions(norm: Any, model: Any) -> tuple[str, str] | None:
    if not isinstance(model, Vit | ZooModel):
        return None
    why = "no slot of vit follows one" if isinstance(model, Vit) else f"those of {model.name} stay as they are"
    if isinstance(norm, WeightPart):
        return ("norm", f"{norm.name} is a method on convolutions, and {why}; use another norm")
    if isinstance(model.conv, PlainConv):
        return None
    return ("model.conv", f"{model.conv.name} is a method on convolutions, and {why}; expected plain")


def _one_method_on_weights(norm: Any, model: Any) -> tuple[str, str] | None:
    if isinstance(norm, WeightPart):
        if isinstance(model.conv, PlainConv) or model.conv == norm:
            return None
        return (
            "model.conv",
            f"{model.conv.name} and the norm {norm.name} are different methods on the same weights; "
            "leave conv plain, or give conv the method and norm another norm",
        )
    if isinstance(model.conv, WeightNorm) and model.conv.scaled_relu:
        return (
            "model.conv.scaled_relu",
            f"the activation belongs to the norm's slot, which is {norm.name}; use norm: {{name: weight, scaled_relu: true}}",
        )
    return None


def _fixup_replaces_norms(norm: Any, model: Any) -> tuple[str, str] | None:
    if getattr(model, "residual", None) != "fixup":
        return None
    if not isinstance(norm, NoNorm):
        return ("norm", f"model.residual fixup replaces norms by its initial weights: expected none, got {norm.name}")
    if not isinstance(model.conv, PlainConv):
        return (
            "model.conv",
            f"model.residual fixup starts a convolution of each branch at 0: expected plain, got {model.conv.name}",
        )
    return None


def _nf_expects_its_weights(norm: Any, model: Any) -> tuple[str, str] | None:
    """Plain weights stay: at the start they keep variances as well, and what standardizing them adds is the authors' ablation."""
    if getattr(model, "residual", None) != "nf" or isinstance(norm, ScaledWeightStandardized):
        return None
    needs = "model.residual nf divides by the deviations that signals have without norms"
    if not isinstance(norm, NoNorm):
        return ("norm", f"{needs}: expected scaled_weight_standardized, or none for an ablation, got {norm.name}")
    if not isinstance(model.conv, PlainConv | ScaledWeightStandardized):
        return ("model.conv", f"{needs}: expected scaled_weight_standardized or plain, got {model.conv.name}")
    return None


def _images_survive_pooling(model: Any, data: Any) -> tuple[str, str] | None:
    if model.name != "convnet":
        return None
    _, height, width = data.image_shape()
    halvings = len(model.widths)
    if min(height, width) >> halvings:
        return None
    return (
        "model.widths",
        f"{halvings} layers halve {data.name} images of {height}x{width} to nothing; "
        f"use at most {min(height, width).bit_length() - 1}",
    )


def _image_fills_small_network(model: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(model, SmallNetwork):
        return None
    _, height, width = data.image_shape()
    least = model.least_side()
    if min(height, width) >= least:
        return None
    return (
        "model",
        f"{model.name} reduces {data.name} images of {height}x{width} to nothing; it needs at least {least}x{least} "
        "pixels: use larger images or another network",
    )


def _patches_fill_image(model: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(model, Vit) or model.image_size is not None:
        return None
    _, height, width = data.image_shape()
    if height % model.patch == 0 and width % model.patch == 0:
        return None
    fitting = [size for size in range(1, min(height, width) + 1) if height % size == 0 and width % size == 0]
    return (
        "model.patch",
        f"{model.patch} does not divide {data.name} images of {height}x{width}; "
        f"what does: {', '.join(map(str, fitting))}; or give image_size, to which images are resized",
    )


def _head_covers_classes(model: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(model, Vit) or model.head_classes is None or model.head_classes >= data.classes():
        return None
    return (
        "model.head_classes",
        f"expected at least the {data.classes()} classes of {data.name}, or null for as many, got {model.head_classes}",
    )


def _crop_fits_image(augment: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(augment, StandardAugment):
        return None
    _, height, width = data.stored_shape()
    if augment.crop_padding <= min(height, width):
        return None
    return (
        "augment.crop_padding",
        f"expected at most the image's {min(height, width)} pixels, got {augment.crop_padding}",
    )


def _square_fits_image(data: Any) -> tuple[str, str] | None:
    if not isinstance(data, Shards) or data.crop is None or data.crop <= min(data.height, data.width):
        return None
    return ("data.crop", f"expected at most the image's {min(data.height, data.width)} pixels, got {data.crop}")


def _bands_are_the_channels(data: Any) -> tuple[str, str] | None:
    if not isinstance(data, Shards) or data.bands is None or len(data.bands) == data.channels:
        return None
    return ("data.bands", f"expected {data.channels} bands, as data.channels says, got {len(data.bands)}")


def _grayscale_has_colours(augment: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(augment, StandardAugment) or augment.grayscale_probability == 0:
        return None
    channels = data.image_shape()[0]
    if channels == 3:
        return None
    return (
        "augment.grayscale_probability",
        f"expected 0: images of {data.name} have {channels} channel{'s' if channels > 1 else ''}, not red, green and blue",
    )


def _loss_fits_labels(loss: Any, data: Any) -> tuple[str, str] | None:
    if data.labels() == "single" or not isinstance(loss, CrossEntropy):
        return None
    return ("loss", f"images of {data.name} have several labels each: expected bce or asymmetric, got {loss.name}")


def _plateau_has_val(schedule: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(schedule, Plateau) or data.has_val():
        return None
    return ("schedule", "plateau follows the val loss, but data.val_fraction is 0; hold some images out")


def _compiled_code_calls_no_probes(probes: Any, model: Any) -> tuple[str, str] | None:
    if not isinstance(probes, LayerProbes) or not probes.measures or not model.compile:
        return None
    return (
        "probes.measures",
        "compiled code does not call what measures its layers: expected none with model.compile; "
        "set model.compile: false, or leave feature_quantiles alone with probes.measures: []",
    )


def _features_have_val(probes: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(probes, LayerProbes) or not probes.feature_quantiles or data.has_val():
        return None
    return (
        "probes.feature_quantiles",
        "features are those of the val images, but data.val_fraction is 0; hold some images out",
    )


def _best_is_chosen_on_val(checkpoint: Any, data: Any) -> tuple[str, str] | None:
    if not checkpoint.keep_best or data.has_val():
        return None
    return (
        "checkpoint.keep_best",
        "the best epoch is chosen on the val images, but data.val_fraction is 0; hold some images out",
    )


def _zoo_keeps_activations(model: Any, act: str) -> tuple[str, str] | None:
    if not isinstance(model, ZooModel) or act == "relu":
        return None
    return ("act", f"{model.name} has activations of its own, which stay; leave act at its default, got {act}")


def _vit_uses_the_activation(model: Any, act: str) -> tuple[str, str] | None:
    if not isinstance(model, Vit) or act == "relu" or model.mlp_act is None or model.norm_act:
        return None
    return (
        "act",
        f"vit uses {model.mlp_act}, its mlp_act, inside its blocks and no other; leave act at its default or set "
        f"model.mlp_act: null, got {act}",
    )


def _zoo_keeps_convolutions(model: Any) -> tuple[str, str] | None:
    if not isinstance(model, ZooModel) or model.conv_bias == "auto":
        return None
    return (
        "model.conv_bias",
        f"the convolutions of {model.name} have a bias where it or its norms need one; leave it out",
    )


def _torchvision_has_the_network(model: Any) -> tuple[str, str] | None:
    if not isinstance(model, TorchvisionModel) or model.known_as in torchvision_sites():
        return None
    return ("model.name", unknown_network(model.library, model.known_as, torchvision_sites()))


def _network_has_norms_to_replace(model: Any) -> tuple[str, str] | None:
    if not isinstance(model, TorchvisionModel) or not model.replace_norms:
        return None
    if torchvision_sites().get(model.known_as) != {}:
        return None
    return (
        "model.replace_norms",
        f"expected false for {model.name}, which has no norm to replace, got true; or use another network",
    )


def _norm_fits_tokens(norm: Any, model: Any) -> tuple[str, str] | None:
    if not isinstance(model, TorchvisionModel) or not model.replace_norms or isinstance(norm, WeightPart):
        return None
    tokens = torchvision_sites().get(model.known_as, {}).get("token", 0)
    if not tokens or norm.reach in ("pixel", "value"):
        return None
    return (
        "norm",
        f"{norm.name} takes its statistics over several tokens, which is no norm of each token as at {tokens} places of "
        f"{model.name}; what does: norms of one position (layer_pixel, rms) or value (dyt, derf)",
    )


def _weights_are_there(model: Any) -> tuple[str, str] | None:
    """A check of the disk: a file that is missing would be found by every run of the sweep, hours later."""
    if not isinstance(model, ZooModel) or model.weights is None or Path(model.weights).expanduser().is_file():
        return None
    return (
        "model.weights",
        f"expected the file of a state dict, got {model.weights}, where there is none; give a path that starts at / "
        "or at the folder that runs are launched from, or leave it out for fresh weights",
    )


def _kept_norms_are_not_named(model: Any, norm: Any) -> tuple[str, str] | None:
    if not isinstance(model, ZooModel) or model.replace_norms or norm == BatchNorm():
        return None
    return (
        "model.replace_norms",
        f"false trains {model.name} with the norms it has; leave norm at its default, got {norm.name}",
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


def _nesterov_has_momentum(optim: Any) -> tuple[str, str] | None:
    if not getattr(optim, "nesterov", False) or optim.momentum > 0:
        return None
    return ("optim.nesterov", "true needs momentum: set optim.momentum above 0, or nesterov to false")


def _micro_batches_hold_images(optim: Any, batch_size: int) -> tuple[str, str] | None:
    if optim.accumulate <= batch_size:
        return None
    return (
        "optim.accumulate",
        f"{optim.accumulate} micro-batches need at least as many images, but batch_size is {batch_size}",
    )


def too_few_images(batch_size: int, accumulate: int, ranks: int) -> str | None:
    """What is wrong with a batch that does not give each micro-batch of each rank an image; None when it does."""
    least = ranks * accumulate
    if batch_size >= least:
        return None
    return f"expected at least {least} images, one for each of {accumulate} micro-batches on {ranks} ranks, got {batch_size}"


def _ranks_have_images(batch_size: int, optim: Any, resources: Any) -> tuple[str, str] | None:
    message = too_few_images(batch_size, optim.accumulate, resources.ranks)
    return ("batch_size", f"{message}; use a larger batch or fewer nodes or GPUs") if message else None


def _batch_fits_data(data: Any, batch_size: int) -> tuple[str, str] | None:
    """Of shards their index is read, where it is; what is loaded is counted once more when it is trained on."""
    rows = data.train_rows()
    if rows is None or batch_size <= rows:
        return None
    return (
        "batch_size",
        f"expected at most the {rows} training images of {data.name}, got {batch_size}; use a smaller batch",
    )


def _instance_has_pixels(norm: Any, model: Any, data: Any) -> tuple[str, str] | None:
    if not isinstance(norm, InstanceNorm):
        return None
    _, height, width = data.image_shape()
    if model.fewest_positions(height, width) != 1:
        return None
    return (
        "norm",
        f"a norm of {model.name} sees {data.name} images of {height}x{width} as single pixels, "
        "over which an instance norm is always 0; use another norm"
        + ("" if model.fewest_positions(2**20, 2**20) == 1 else " or larger images"),
    )


CHECKS = (
    Check(("schedule", "epochs"), _schedule_fits_epochs),
    Check(("optim", "batch_size"), _micro_batches_hold_images),
    Check(("optim",), _nesterov_has_momentum),
    Check(("probes", "model"), _compiled_code_calls_no_probes),
    Check(("data",), _square_fits_image),
    Check(("data",), _bands_are_the_channels),
)
"""What makes a configuration contradict itself: never a :class:`~normhpc.config.RunConfig`."""

FITS = (
    Check(("norm", "model"), _groups_divide_channels),
    Check(("norm", "model"), _groups_are_listed_for_groups),
    Check(("norm", "model"), _method_on_weights_has_convolutions),
    Check(("norm", "model"), _one_method_on_weights),
    Check(("norm", "model"), _fixup_replaces_norms),
    Check(("norm", "model"), _nf_expects_its_weights),
    Check(("model", "data"), _images_survive_pooling),
    Check(("model", "data"), _image_fills_small_network),
    Check(("model", "data"), _patches_fill_image),
    Check(("model", "data"), _head_covers_classes),
    Check(("augment", "data"), _crop_fits_image),
    Check(("augment", "data"), _grayscale_has_colours),
    Check(("loss", "data"), _loss_fits_labels),
    Check(("schedule", "data"), _plateau_has_val),
    Check(("probes", "data"), _features_have_val),
    Check(("checkpoint", "data"), _best_is_chosen_on_val),
    Check(("data", "batch_size"), _batch_fits_data),
    Check(("norm", "model", "data"), _instance_has_pixels),
    Check(("model", "act"), _zoo_keeps_activations),
    Check(("model", "act"), _vit_uses_the_activation),
    Check(("model",), _zoo_keeps_convolutions),
    Check(("model",), _torchvision_has_the_network),
    Check(("model",), _network_has_norms_to_replace),
    Check(("norm", "model"), _norm_fits_tokens),
    Check(("model",), _weights_are_there),
    Check(("model", "norm"), _kept_norms_are_not_named),
)
"""What makes a sound configuration impossible to train with this network and these images: refused when it is planned."""

FITS_RESOURCES = (Check(("batch_size", "optim", "resources"), _ranks_have_images),)
"""What makes a sound configuration impossible to train on the resources of its run: refused when it is planned."""


def findings(checks: Iterable[Check], fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every (dotted path, message) on which the top-level ``fields`` of a configuration fail ``checks``."""
    found = (check.find(*(fields[name] for name in check.fields)) for check in checks)
    return [finding for finding in found if finding is not None]
