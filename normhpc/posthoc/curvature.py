"""The Hessian of a network's mean loss, through its products with vectors alone.

Plain double backward passes, so that every layer with second derivatives can be measured, in either mode.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Mode = Literal["eval", "train"]
Product = Callable[[Tensor], Tensor]
"""H v of a vector (P,) in float64."""

GRAPH_BYTES = 4 * 2**30
"""Room for the graphs that a :class:`Hessian` keeps on a processor."""

UNCHANGED = 1e-3
"""Share of the largest output by which outputs may differ where they should not."""

_RANDOM_LAYERS = ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "StochasticDepth", "DropPath")
"""Classes that leave parts out at random; those of torch carry the number of dimensions at their end."""


class Hessian:
    """v -> H v, H the second derivative of the mean loss over fixed ``batches`` by the trainable weights.

    ``loss(logits, labels)`` is a mean over the images of a batch; batches are weighted by their numbers of images. In
    train mode each batch has its own statistics, dropout is off, and the buffers of ``model`` (running statistics)
    are put back before every pass, so that all products are with one matrix. ``tell`` is called for every product.
    Use within :func:`mode_of`, with weights that do not change.

    The graphs of the gradients of as many batches as fit into ``graph_bytes`` are kept from the first product on, and
    save all others the way to the gradient. None: half of what is free on a GPU, elsewhere :data:`GRAPH_BYTES`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        tell: Callable[[], object] = lambda: None,
        graph_bytes: int | None = None,
    ) -> None:
        self.model, self.batches, self.loss = model, batches, loss
        self._tell, self._graph_bytes = tell, graph_bytes
        self._graphs: dict[int, Sequence[Tensor]] = {}
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.sizes = [weight.numel() for weight in self.weights]
        self.images = sum(len(images) for images, _ in batches)
        self.products = 0
        """Products computed so far."""

    @property
    def size(self) -> int:
        """Trainable weights P."""
        return sum(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.weights[0].device

    def __call__(self, vector: Tensor) -> Tensor:
        """H v, (P,) in float64, of a vector (P,)."""
        self.products += 1
        self._tell()
        parts = self._parts(vector)
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        kept = self._kept_batches
        for number, (images, labels) in enumerate(self.batches):
            gradients = self._graphs.get(number) or self._gradients(images, labels, create_graph=True)
            if number < kept:
                self._graphs[number] = gradients
            inner = torch.stack(
                [(part * gradient).sum() for part, gradient in zip(parts, gradients, strict=True)]
            ).sum()
            if inner.requires_grad:
                seconds = torch.autograd.grad(inner, self.weights, retain_graph=number < kept, materialize_grads=True)
                total += len(images) / self.images * _flat(seconds)
        return total

    def gradient(self) -> Tensor:
        """The gradient of the mean loss, (P,) in float64."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        for images, labels in self.batches:
            total += len(images) / self.images * _flat(self._gradients(images, labels, create_graph=False))
        return total

    def scale_invariant(self) -> dict[str, int]:
        """Tensors of weights whose length changes no answer, by name with their place in :attr:`weights`.

        Of those with two or more dimensions, each doubled: outputs over the first batch then differ by at most
        :data:`UNCHANGED` of the largest. What stands before a norm does that, up to the norm's eps.
        """
        images, _ = self.batches[0]
        names = [name for name, weight in self.model.named_parameters() if weight.requires_grad]
        with torch.no_grad():
            usual = self._answers(images, {})
            found = {}
            for place, (name, weight) in enumerate(zip(names, self.weights, strict=True)):
                if weight.ndim > 1:
                    other = self._answers(images, {name: 2 * weight})
                    if (other - usual).abs().max() <= UNCHANGED * usual.abs().max():
                        found[name] = place
        return found

    def _answers(self, images: Tensor, changed: dict[str, Tensor]) -> Tensor:
        with kept_buffers(self.model):
            answers: Tensor = torch.func.functional_call(self.model, changed, (images,))
        return answers

    def _gradients(self, images: Tensor, labels: Tensor, *, create_graph: bool) -> Sequence[Tensor]:
        """The gradient of the mean loss of a batch, the buffers left as they were."""
        with kept_buffers(self.model):
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(0)  # what is random in a pass must be the same in all
                loss = self.loss(self.model(images), labels)
            return torch.autograd.grad(loss, self.weights, create_graph=create_graph, materialize_grads=True)

    @cached_property
    def _kept_batches(self) -> int:
        """The number of batches, the first ones, whose graphs are kept; as many as if all took what the first does."""
        room = self._graph_bytes
        if room is None:
            room = torch.cuda.mem_get_info(self.device)[0] // 2 if self.device.type == "cuda" else GRAPH_BYTES
        found: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself would keep its graph alive

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self._gradients(*self.batches[0], create_graph=True)
        return room // max(1, sum(found.values()))

    def _parts(self, vector: Tensor) -> list[Tensor]:
        pieces = zip(self.by_tensor(vector), self.weights, strict=True)
        return [piece.view_as(weight).to(weight) for piece, weight in pieces]

    def by_tensor(self, vector: Tensor) -> Sequence[Tensor]:
        """The pieces of a vector (P,) that belong to the tensors of weights."""
        return torch.split(vector, self.sizes)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().reshape(-1).double() for part in parts])


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Copies in the place of the buffers of ``model``, such as running statistics, which stay as they are.

    Not written back in place: a graph that has them must still be good for a backward pass.
    """
    before = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    copies = {buffer: buffer.clone() for _, _, buffer in before}
    try:
        for module, name, buffer in before:
            module._buffers[name] = copies[buffer]
        yield
    finally:
        for module, name, buffer in before:
            module._buffers[name] = buffer


@contextmanager
def mode_of(model: nn.Module, mode: Mode) -> Iterator[None]:
    """``model`` in a mode, without dropout, with attention that can be differentiated twice; afterwards as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.train(mode == "train")
    for module in model.modules():
        if type(module).__name__.rstrip("123d") in _RANDOM_LAYERS:
            module.eval()
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        for module, training in before:
            module.training = training


@dataclass(frozen=True, slots=True)
class Krylov:
    """What Lanczos found in the Krylov space of a start vector."""

    values: NDArray[np.float64]
    """(m,) Ritz values, ascending: eigenvalues of the tridiagonal matrix."""
    weights: NDArray[np.float64]
    """(m,) squared first components of its eigenvectors; they sum to 1."""
    residuals: NDArray[np.float64]
    """(m,) |H u - theta u| of each Ritz pair."""
    vectors: NDArray[np.float64]
    """(m, m) eigenvectors of the tridiagonal matrix, in columns."""
    basis: Tensor
    """(m, P) orthonormal rows."""


def lanczos(product: Product, start: Tensor, steps: int) -> Krylov:
    """``steps`` of Lanczos from ``start`` (P,), in float64, every vector made orthogonal twice to all before it.

    Ends early where the space is invariant: its Ritz values are eigenvalues then.
    """
    steps = min(steps, len(start))
    basis = start.new_empty(steps, len(start), dtype=torch.float64)
    diagonal, off = np.zeros(steps), np.zeros(steps)
    vector = start.double() / start.double().norm()
    done = 0
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal[step] = float(vector @ image)
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        off[step] = float(image.norm())
        done = step + 1
        if off[step] <= 1e-12 * np.abs(diagonal[:done]).max() or off[step] == 0:
            off[step] = 0.0
            break
        vector = image / off[step]
    inner = np.diag(diagonal[:done]) + np.diag(off[: done - 1], 1) + np.diag(off[: done - 1], -1)
    values, vectors = np.linalg.eigh(inner)
    residuals = np.abs(off[done - 1] * vectors[-1])
    return Krylov(values, vectors[0] ** 2, residuals, vectors, basis[:done])


def rademacher(size: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """(size,) of -1 and 1 in float64, drawn on the processor."""
    return (torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1).to(device)


class Trace(NamedTuple):
    """Estimates of the trace by random vectors."""

    mean: float
    """Hutch++: tr(Q^T H Q) + (1/k) sum_i v_i^T (I - Q Q^T) H (I - Q Q^T) v_i."""
    standard_error: float
    """Standard deviation of the terms of that sum / sqrt(k); the first part has no error."""
    hutchinson: float
    """(1/k) sum_i v_i^T H v_i, of the same vectors."""
    hutchinson_standard_error: float
    """Standard deviation over the vectors / sqrt(k)."""
    seed_trace: float
    """(1/k) sum_i sum_l |v_il^T (H v_i)_l|, l over the tensors of weights: no trace, see :func:`trace_of`."""


def trace_of(hessian: Hessian, vectors: int, sketch: int, generator: torch.Generator) -> Trace:
    """The trace by Hutchinson's estimate and by Hutch++ (Meyer et al. 2021, arXiv:2010.09649) of the same ``vectors``.

    Q is an orthonormal basis of H S, S being ``sketch`` random vectors of their own: where a few eigenvalues are most of
    the trace, Q holds them and what is left to chance is small. Since H Q is known, the terms of Hutch++ take no
    product beside the H v_i: in all ``vectors + 2 sketch`` of them.

    ``seed_trace`` is what an earlier study printed as the trace: absolute values by tensor make it larger than the
    trace wherever a tensor's part is negative or noisy. Kept under its own name, to compare with that study alone.
    """
    columns = [hessian(rademacher(hessian.size, hessian.device, generator)) for _ in range(min(sketch, hessian.size))]
    basis = torch.linalg.qr(torch.stack(columns, dim=1)).Q
    images = torch.stack([hessian(column) for column in basis.T], dim=1)
    inner = basis.T @ images
    plain, rest, absolute = [], [], []
    for _ in range(vectors):
        vector = rademacher(hessian.size, hessian.device, generator)
        image = hessian(vector)
        parts = torch.stack([part.sum() for part in hessian.by_tensor(vector * image)]).cpu().numpy()
        plain.append(float(parts.sum()))
        absolute.append(float(np.abs(parts).sum()))
        within = basis.T @ vector
        # (v - Q w)^T H (v - Q w), w = Q^T v
        rest.append(plain[-1] - float(2 * (images @ within) @ vector - within @ inner @ within))
    return Trace(
        float(inner.trace()) + float(np.mean(rest)),
        standard_error(rest),
        float(np.mean(plain)),
        standard_error(plain),
        float(np.mean(absolute)),
    )


def standard_error(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """Of the mean of independent ``samples``; NaN for a single one."""
    return float(np.std(samples, ddof=1) / len(samples) ** 0.5) if len(samples) > 1 else float("nan")


class Quadrature(NamedTuple):
    """Stochastic Lanczos quadrature: nodes and weights of the spectral density, each of several random vectors."""

    values: list[NDArray[np.float64]]
    weights: list[NDArray[np.float64]]

    def moments(self, power: int) -> NDArray[np.float64]:
        """(vectors,) sum_j w_j theta_j^power of each vector: P times it estimates tr(H^power)."""
        return np.array([(weights * values**power).sum() for values, weights in zip(*self, strict=True)])

    def density(self, points: int = 1001) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Grid and density: mean over vectors of sum_j w_j N(t; theta_j, s^2), s a hundredth of the range; area 1."""
        low = min(float(values.min()) for values in self.values)
        high = max(float(values.max()) for values in self.values)
        spread = (high - low) / 100 or max(abs(high), 1.0) / 100
        grid = np.linspace(low - 5 * spread, high + 5 * spread, points)
        total = np.zeros(points)
        for values, weights in zip(*self, strict=True):
            bells = np.exp(-((grid[:, None] - values) ** 2) / (2 * spread**2)) / (spread * np.sqrt(2 * np.pi))
            total += bells @ weights
        return grid, total / len(self.values)


def quadrature(hessian: Hessian, vectors: int, steps: int, generator: torch.Generator) -> Quadrature:
    """``steps`` of Lanczos from each of so many Rademacher ``vectors`` (Ghorbani et al. 2019, arXiv:1901.10159)."""
    found = [lanczos(hessian, rademacher(hessian.size, hessian.device, generator), steps) for _ in range(vectors)]
    return Quadrature([one.values for one in found], [one.weights for one in found])
