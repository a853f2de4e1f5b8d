"""Random changes of the training images."""

from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import NonNegativeFloat, NonNegativeInt, Part

Probability = Annotated[float, Field(ge=0, le=1)]


class NoAugment(Part):
    """Training images as they are."""

    name: Literal["none"] = "none"


class StandardAugment(Part):
    """The augmentation of the CIFAR papers, drawn anew for every image and epoch, and what else is asked for.

    In this order: grayscale, rotation, perspective, mirror, crop, mixing of two images.
    """

    name: Literal["standard"] = "standard"
    flip: bool = True
    """Mirror left to right with probability 1/2."""
    crop_padding: NonNegativeInt = 4
    """Pad by this many pixels on each side, with 0 (floats with their channel's mean), and cut out the original size at a
    random place."""
    grayscale_probability: Probability = 0.0
    """Chance of an image to lose its colours: each channel becomes 0.2989 R + 0.587 G + 0.114 B."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotate about the centre by an angle drawn evenly between minus and plus so many degrees, nearest pixel."""
    rotation_fill: Annotated[int, Field(ge=0, le=255)] = 0
    """Stored value, 0 to 255, of what rotation brings into view."""
    perspective_probability: Probability = 0.0
    """Chance of an image to be seen from another place."""
    perspective_distortion: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How far each corner moves at most towards the centre, as a share of half the image's side."""
    mixup_alpha: NonNegativeFloat = 0.0
    """Mix each image and its label with another's, the share from Beta(alpha, alpha) (Zhang et al. 2018); 0 for never."""
    cutmix_alpha: NonNegativeFloat = 0.0
    """Replace a rectangle of each image by another's, its area from Beta(alpha, alpha) (Yun et al. 2019); 0 for never.

    With ``mixup_alpha`` as well, each batch takes one of the two by a fair coin.
    """
    mix_probability: Probability = 1.0
    """Chance of a batch to be mixed at all, where one of the alphas is above 0."""
