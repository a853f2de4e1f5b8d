"""What every network of the study is: a backbone that gives features, and a linear head on them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


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
