"""Division by a root mean square without centring: over channels, over positions, over neighbouring channels."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config import norm as configs
from normhpc.norms.lean import per_image, planewise
from normhpc.norms.moments import PER_CHANNEL, POSITIONS, affine, column
from normhpc.norms.slot import Norm


class Rms(Norm):
    """y = act(x / sqrt(q + eps) * weight), q the mean of x^2 over the channels at each position.

    weight has shape (C,) and starts at 1. Zhang and Sennrich 2019, arXiv:1910.07467, at every pixel as layer norm is
    used in ConvNeXt.
    """

    scope = "pixel"
    shifts = False

    def __init__(self, config: configs.RmsNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return per_image(self._formula, x, self.weight, gradient=self._gradient)

    def _formula(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * _reciprocal(x, (1,), self.eps) * column(weight)

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """With g the gradient times weight, r = 1 / rms: dx = r g - x r^3 mean(g x)."""
        r = _reciprocal(x, (1,), self.eps)
        product = grad * x
        dweight = (product * r).sum(PER_CHANNEL)
        pull = product.mul_(column(weight)).mean(1, keepdim=True) * r * r.square()
        return (grad * column(weight)).mul_(r).addcmul_(x, pull, value=-1), dweight

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, eps={self.eps:g}"


class FilterResponse(Norm):
    """z = x / sqrt(q + eps) * weight + bias, q the mean of x^2 over each plane's positions; y = act(z).

    With its threshold, learned per channel, in the place of the activation: y = max(z, threshold); where the network
    has no activation, y = z. weight starts at 1, bias and threshold at 0, all of shape (C,). With ``learn_eps`` the
    magnitude of a learned scalar, starting at ``eps``, takes the place of eps. Singh and Krishnan 2020,
    arXiv:1911.09737. Where z equals the threshold the gradient goes to the threshold.
    """

    scope = "sample"

    def __init__(self, config: configs.FilterResponse, num_features: int, act: str) -> None:
        thresholded = isinstance(config, configs.FilterResponseTlu) and act != "none"
        super().__init__(num_features, act)
        self.owns_act = thresholded
        self.eps = config.eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.learned_eps = nn.Parameter(torch.tensor(config.eps)) if config.learn_eps else None
        self.threshold = nn.Parameter(torch.zeros(num_features)) if thresholded else None

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        rest = [parameter for parameter in (self.learned_eps, self.threshold) if parameter is not None]
        return per_image(self._formula, x, self.weight, self.bias, *rest, gradient=self._gradient)

    def _eps(self, rest: tuple[Tensor, ...]) -> Tensor | float:
        return self.eps if self.learned_eps is None else rest[0].abs()

    def _formula(self, x: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        z = affine(x, _reciprocal(x, POSITIONS, self._eps(rest)) * column(weight), column(bias))
        # Not maximum, which would halve the gradient at a tie: a dead plane starts with one everywhere. And by <=, which
        # keeps NaN, so that a diverged network shows.
        return z if self.threshold is None else torch.where(z <= column(rest[-1]), column(rest[-1]), z)

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """With g the gradient behind the threshold times weight, r = 1 / rms: dx = r g - x r^3 mean(g x)."""
        r = _reciprocal(x, POSITIONS, self._eps(rest))
        scale = r * column(weight)
        d_rest = []
        if self.threshold is not None:
            above = ~(affine(x, scale, column(bias)) <= column(rest[-1]))
            kept = grad * above
            d_rest.append((grad - kept).sum(PER_CHANNEL))
            grad = kept
        of_plane = (grad * x).sum(POSITIONS, keepdim=True)
        pull = of_plane * column(weight) * r * r.square()
        if self.learned_eps is not None:
            d_rest.insert(0, pull.sum() * (-0.5 * torch.sign(rest[0])))
        dx = (grad * scale).addcmul_(x, pull / (x.shape[2] * x.shape[3]), value=-1)
        return dx, (of_plane * r).sum(PER_CHANNEL), grad.sum(PER_CHANNEL), *d_rest

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, eps={self.eps:g}"


class GlobalResponse(Norm):
    """y = act(x + weight * x * n / (mean of n over channels + eps) + bias), n the L2 norm of each plane.

    weight and bias have shape (C,) and start at 0, at which the layer is the identity. Woo et al. 2023,
    arXiv:2301.00808.
    """

    scope = "sample"

    def __init__(self, config: configs.GlobalResponseNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.eps = config.eps
        self.weight = nn.Parameter(torch.zeros(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        formula, gradient = planewise(partial(self._coefficients, x.shape[2] * x.shape[3]))
        return per_image(formula, x, self.weight, self.bias, gradient=gradient)

    def _coefficients(
        self, positions: int, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        squares = (variance + mean.square()) * positions
        # The slope of the root has no bound at a dead plane, where its share has a gradient of 0.
        norm = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
        scale = 1 + column(weight) * norm / (norm.mean(1, keepdim=True) + self.eps)
        return scale, mean * scale + column(bias)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, eps={self.eps:g}"


class LocalResponse(Norm):
    """y = act(x / (k + alpha * q) ** beta), q the mean of x^2 over ``size`` neighbouring channels, zeros beyond the ends.

    Has no parameters. Krizhevsky et al. 2012, section 3.3; numbers are those of ``nn.LocalResponseNorm``.
    """

    scope = "pixel"
    shifts = False

    def __init__(self, config: configs.LocalResponseNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.size, self.alpha, self.beta, self.k = config.size, config.alpha, config.beta, config.k

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return per_image(self._formula, x, gradient=self._gradient)

    def _formula(self, x: Tensor) -> Tensor:
        return x * self._divisor(x).pow(-self.beta)

    def _gradient(self, grad: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """With s = k + alpha q: dx = g s^-beta - 2 alpha beta / size x w(g x s^(-beta - 1)), w the sum over the channels
        in whose windows this one is.
        """
        divisor = self._divisor(x)
        power = divisor.pow(-self.beta)
        dx = grad * power
        pull = _window_sums((dx * x).div_(divisor), (self.size - 1) // 2, self.size // 2)
        return (dx.addcmul_(pull, x, value=-2 * self.alpha * self.beta / self.size),)

    def _divisor(self, x: Tensor) -> Tensor:
        return _window_sums(x.square(), self.size // 2, (self.size - 1) // 2) * (self.alpha / self.size) + self.k

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, size={self.size}, alpha={self.alpha:g}, beta={self.beta:g}, k={self.k:g}"


def _reciprocal(x: Tensor, dims: tuple[int, ...], eps: Tensor | float) -> Tensor:
    return x.square().mean(dims, keepdim=True).add(eps).rsqrt()


def _window_sums(values: Tensor, before: int, after: int) -> Tensor:
    """Sums over each channel, so many before it and so many after it: (N, C, H, W) to a new tensor of this shape."""
    channels = values.shape[1]
    padded = F.pad(values, (0, 0, 0, 0, before, after))
    total = padded[:, :channels].clone()
    for start in range(1, before + after + 1):
        total += padded[:, start : start + channels]
    return total
