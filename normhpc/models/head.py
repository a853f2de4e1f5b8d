"""What every network of the study is: a backbone that gives features, and a linear head on them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


class BackboneWithHead(nn.Module, ABC):
    """logits = head(features(images)).

    A network implements :meth:`features` and sets ``head``, last, so that the weights of its layers are drawn in the
    order of the layers.
    """

    head: nn.Linear

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, F) features."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, classes) logits."""
        logits: Tensor = self.head(self.features(images))
        return logits


def classifier(network: nn.Module) -> nn.Module | None:
    """The layer of ``network`` that gives the logits: its last linear layer or convolution; None without any.

    Last in the order of the modules, so ``head`` in every network of the study, and in those of torchvision and timm
    what they call ``fc``, ``head`` or ``classifier``.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | _ConvNd)]
    return layers[-1] if layers else None
