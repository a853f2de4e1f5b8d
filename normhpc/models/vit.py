"""Vision transformer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.model import Vit as VitConfig
from normhpc.models.activation import Activation
from normhpc.models.block import Layers
from normhpc.models.head import BackboneWithHead
from normhpc.norms import Norm, ParamSpec


class Vit(BackboneWithHead):
    """Patches and a class token through pre-norm blocks; a last norm; a linear layer on the class token.

    Dosovitskiy et al. 2020, arXiv:2010.11929, with the initial weights of torchvision: the head starts at 0, so the
    first logits are 0. (N, *image_shape) to logits (N, classes), or (N, head_classes) where the configuration says so.
    """

    def __init__(self, config: VitConfig, image_shape: tuple[int, int, int], classes: int, layers: Layers) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.tokens = Tokens(config, image_shape)
        self.blocks = nn.ModuleList(Block(config, layers) for _ in range(config.depth))
        self.norm = token_norm(config, layers)
        self.head = nn.Linear(config.width, config.head_classes or classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images, resized to ``image_size``, to the class tokens (N, width)."""
        size = self.image_size
        if size is not None and images.shape[2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y[:, 0]


class Tokens(nn.Module):
    """A class token and one token a patch by a strided convolution, plus a learned embedding of the position.

    (N, C, H, W) to (N, S, width), S = 1 + H W / patch^2. The convolution starts with standard deviation
    1 / sqrt(values of a patch), truncated at 2; the embedding with 0.02; biases and class token at 0.
    """

    def __init__(self, config: VitConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        rows, columns = config.grid(height, width)
        self.patches = nn.Conv2d(channels, config.width, config.patch, stride=config.patch, bias=False)
        nn.init.trunc_normal_(self.patches.weight, std=(channels * config.patch**2) ** -0.5)
        if config.conv_bias is not False:
            self.patches.bias = nn.Parameter(torch.zeros(config.width))
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, 1 + rows * columns, config.width).normal_(std=0.02))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Class token first, then patches row by row."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        y: Tensor = self.dropout(x + self.positions)
        return y

    def param_specs(self) -> dict[str, ParamSpec]:
        """No weight decay on token and embedding: they are added, not multiplied."""
        return {"class_token": ParamSpec(), "positions": ParamSpec()}


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); (N, S, width) to the same."""

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__()
        self.norm1 = token_norm(config, layers)
        self.attention = Attention(config)
        self.norm2 = token_norm(config, layers)
        self.mlp = Mlp(config, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class TokenNorm(nn.Module):
    """A slot on tokens: (N, S, C) is seen as (N, C, S, 1) in channels_last, a view without a copy."""

    def __init__(self, slot: Norm) -> None:
        super().__init__()
        self.slot = slot

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, C) to the same."""
        y: Tensor = self.slot(x.unsqueeze(2).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).squeeze(2)


def token_norm(config: VitConfig, layers: Layers) -> TokenNorm:
    """The norm alone; with ``norm_act`` a norm that owns its activation with it."""
    if config.norm_act and (activated := layers.slot(config.width)).owns_act:
        return TokenNorm(activated)
    return TokenNorm(layers.slot(config.width, act=False))


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(width / heads)) v, then a linear layer; (N, S, width) to the same.

    One linear layer makes q, k and v and starts by Glorot and Bengio's uniform rule over all three; biases at 0.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.inward = nn.Linear(config.width, 3 * config.width)
        nn.init.xavier_uniform_(self.inward.weight)
        nn.init.zeros_(self.inward.bias)
        self.product = DotProduct()
        self.outward = nn.Linear(config.width, config.width)
        nn.init.zeros_(self.outward.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Every token from all tokens."""
        q, k, v = self.inward(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.product(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.dropout(self.outward(mixed))
        return y


class DotProduct(nn.Module):
    """softmax(q k^T / sqrt(d)) v for (N, heads, S, d); a module so that the model's facts see it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, heads, S, d)."""
        return F.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two linear layers with an activation between them; weights start by Glorot and Bengio, biases near 0 (1e-6)."""

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__()
        self.inward = nn.Linear(config.width, config.mlp_width)
        self.act = Activation(config.mlp_act or layers.act)
        self.outward = nn.Linear(config.mlp_width, config.width)
        for linear in (self.inward, self.outward):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, width) to the same."""
        hidden = self.dropout(self.act(self.inward(x)))
        y: Tensor = self.dropout(self.outward(hidden))
        return y
