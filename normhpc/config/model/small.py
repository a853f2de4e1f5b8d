"""Small convolutional networks for CIFAR-10 and MNIST, as in the studies this one repeats."""

from abc import abstractmethod
from itertools import count
from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.base import Fraction
from normhpc.config.model.base import ModelPart


class SmallNetwork(ModelPart):
    """A network of fixed layers that ends with an average over the last map."""

    name: str = ""

    @abstractmethod
    def last_side(self, side: int) -> int:
        """Rows of the last map for an image of ``side`` rows, and columns for columns; below 1 there is none."""

    def least_side(self) -> int:
        """Rows, and columns, that an image needs."""
        return next(side for side in count(1) if self.last_side(side) >= 1)


class EraConvNet(SmallNetwork):
    """Eight 3x3 convolutions with replicate padding in three blocks of 16, 24 and 32 channels: 47,818 parameters.

    The CIFAR-10 network of swapniel99/erav1s8. 1x1 convolutions without norm and activation, then 2x2 max pooling,
    lead from block to block.
    """

    name: Literal["era_convnet"] = "era_convnet"
    skip: bool = True
    """Add the input of each convolution of the second and third block to its norm's output, before the activation."""
    dropout: Fraction = 0.01
    """Share of values zeroed after each 3x3 convolution's activation; 0.01 is that of the reported runs."""

    def last_side(self, side: int) -> int:
        """Two unpadded convolutions, then two poolings."""
        return (side - 4) // 2 // 2

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return (16, 24, 32)


class MnistModel(SmallNetwork):
    """Five 3x3 convolutions and two 1x1 ones: the MNIST networks of swapniel99/erav1s8.

    ``mnist_model2`` has 173,866 parameters without norm, ``mnist_model3`` is a narrow one with 7,781.
    ``mnist_model4`` has the norms of ``mnist_model3`` after the activation and the pooling, before the next
    convolution (7,979), ``mnist_model5`` dropout of 0.01 after each convolution as well.
    """

    name: Annotated[str, Field(pattern=r"^mnist_model[2-5]$", examples=["mnist_model{2-5}"])] = "mnist_model4"

    def widths(self) -> tuple[int, ...]:
        """Channels of the five 3x3 convolutions and of the 1x1 convolution after the global pooling."""
        return (32, 32, 64, 64, 128, 256) if self.name == "mnist_model2" else (9, 10, 16, 16, 16, 32)

    def last_side(self, side: int) -> int:
        """Two poolings."""
        return side // 2 // 2

    def fewest_positions(self, height: int, width: int) -> int:
        """One: a norm follows the 1x1 convolution after the global pooling."""
        return 1

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return self.widths()


class EvaConvNet(SmallNetwork):
    """Seven 3x3 convolutions, five of them without padding, for 28x28 images: 7,946 parameters.

    The MNIST network of EVA6-Group-15/dl-normalization.
    """

    name: Literal["eva_convnet"] = "eva_convnet"

    def last_side(self, side: int) -> int:
        """One pooling, then five unpadded convolutions."""
        return side // 2 - 10

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees."""
        return (8, 12, 16)
