"""Cost of probing every layer at every step, against probers written as BeyondBatchNorm's are.

    python benchmarks/probes.py [--rounds 9]

ResNet-20 on 128 random images of CIFAR's shape, one forward and one backward pass, one thread on a CPU. The peer is a
module behind each convolution and activation that computes with whole tensors and reads every number at once
(``.item()``): deviation, variance, unit rows, their products, their mean, the largest singular value, the gradient's
norm. BeyondBatchNorm's also multiplies all pairs of gradients and drops the result: ``peer`` leaves that out,
``peer_with_gradient_products`` does it. All take turns, so that a machine that drifts slows all; the clock is the
processor time of the process, times are those of the fastest round and ratios the medians over rounds. ``layers`` has the peer's five measures,
``layers_all`` also those of norm slots, which the peer does not have. The peer computes in NCHW, ours in NHWC as a run does
by default; ``bare`` and ``bare_nchw`` are the step without probes, of which each takes its own.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc import models
from normhpc.config import RunConfig
from normhpc.config.training import LayerProbes as LayerProbesConfig
from normhpc.config.training import Measure
from normhpc.train.probes import LayerProbes
from normhpc.train.probes.layers import measured_places

PEER_MEASURES: tuple[Measure, ...] = (
    "conv_std",
    "gradient_norm",
    "activation_variance",
    "activation_cosine",
    "activation_rank",
)


class PeerProbes:
    """Hooks on the layers of ``model`` that keep one Python number per measure, layer and step."""

    def __init__(self, model: nn.Module, *, gradient_products: bool) -> None:
        self.gradient_products = gradient_products
        self.numbers: list[float] = []
        self.handles = []
        for place in measured_places(model):
            if "conv" in place.kinds:
                self.handles.append(place.module.register_forward_hook(self.conv))
            if "activation" in place.kinds:
                self.handles.append(place.module.register_forward_hook(self.activation))

    def conv(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.numbers.append(output.detach().std((0, 2, 3)).mean().item())
        output.register_hook(self.gradient)

    def gradient(self, gradient: Tensor) -> None:
        self.numbers.append(torch.linalg.vector_norm(gradient).item())
        if self.gradient_products:
            self.products(gradient)

    def activation(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        x = output.detach()
        self.numbers.append(x.var((0, 2, 3)).mean().item())
        products = self.products(x)
        self.numbers.append(((products.sum(1) - 1) / (len(x) - 1)).mean().item())
        self.numbers.append((products.trace() / torch.linalg.matrix_norm(products, 2)).item())

    @staticmethod
    def products(x: Tensor) -> Tensor:
        rows = x.flatten(1)
        rows = rows / rows.norm(dim=1, keepdim=True)
        return rows @ rows.T

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def pass_through(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Forwards and backwards, unprobed."""
    F.cross_entropy(model(images), labels).backward()


def with_peer(model: nn.Module, images: Tensor, labels: Tensor, *, gradient_products: bool) -> None:
    """The same with the peer's probers."""
    probes = PeerProbes(model, gradient_products=gradient_products)
    pass_through(model, images, labels)
    probes.remove()


def with_ours(probes: LayerProbes, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The same with ours, and what the end of an epoch adds per step."""
    with probes.measuring(0, len(images)) as reading:
        loss = F.cross_entropy(model(images), labels, reduction="sum")
        if reading is not None:
            reading.watch(loss)
        loss.backward()
    probes.settled()
    probes.clear()


def measure(rounds: int) -> dict[str, float]:
    """Milliseconds a step, and what our probes add to it over what the peer's add."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = models.build(RunConfig.model_validate({"data": "cifar10", "model": "resnet20"}))
    model = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    planar, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    images = planar.to(memory_format=torch.channels_last)
    ours, all_of_ours = LayerProbes(model, PEER_MEASURES, 1), LayerProbes(model, LayerProbesConfig().measures, 1)
    contestants: dict[str, Callable[[], None]] = {
        "bare": lambda: pass_through(model, images, labels),
        "bare_nchw": lambda: pass_through(theirs, planar, labels),
        "peer": lambda: with_peer(theirs, planar, labels, gradient_products=False),
        "peer_with_gradient_products": lambda: with_peer(theirs, planar, labels, gradient_products=True),
        "layers": lambda: with_ours(ours, model, images, labels),
        "layers_all": lambda: with_ours(all_of_ours, model, images, labels),
    }
    rows: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        row = {}
        for name, step in contestants.items():
            began = time.process_time()
            step()
            row[name] = 1000 * (time.process_time() - began)
        rows.append(row)

    def ratio(ours: str, peer: str) -> float:
        shares = [(row[ours] - row["bare"]) / (row[peer] - row["bare_nchw"]) for row in rows[1:]]
        return round(statistics.median(shares), 3)

    return {
        **{f"{name}_ms": round(min(row[name] for row in rows[1:]), 1) for name in contestants},
        "of_peer": ratio("layers", "peer"),
        "of_peer_with_gradient_products": ratio("layers", "peer_with_gradient_products"),
        "all_of_peer": ratio("layers_all", "peer"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    print(json.dumps(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
