"""What is minimized."""

from typing import Literal

from normhpc.config.base import Fraction, NonNegativeFloat, Part


class CrossEntropy(Part):
    """Softmax cross entropy of single labels, mean over the global batch."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Fraction = 0.0
    """Weight of the uniform distribution mixed into the labels."""


class BinaryCrossEntropy(Part):
    """Binary cross entropy of every class on its own, mean over classes and the global batch."""

    name: Literal["bce"] = "bce"
    label_smoothing: Fraction = 0.0
    """Labels become (1 - s) y + s / 2."""


class Asymmetric(Part):
    """Asymmetric loss of many labels, few of them positive, mean over classes and the global batch.

    -(1 - p)^g+ log p for a positive label, -p'^g- log(1 - p') for a negative one, p' = max(p - margin, 0)
    (Ben-Baruch et al. 2021, arXiv:2009.14119).
    """

    name: Literal["asymmetric"] = "asymmetric"
    gamma_positive: NonNegativeFloat = 0.0
    """Focusing exponent g+ of positive labels."""
    gamma_negative: NonNegativeFloat = 4.0
    """Focusing exponent g- of negative labels."""
    margin: Fraction = 0.05
    """Probability below which a negative label costs nothing."""
