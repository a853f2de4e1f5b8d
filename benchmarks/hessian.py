"""Time of products with the Hessian, and what its largest eigenvalue costs, against PyHessian and curvlinops.

    python benchmarks/hessian.py [--images 1000] [--rounds 5] [--eigenvalue-images 200]

ResNet-20 after 20 steps of training, images of CIFAR's shape, cross entropy, evaluation mode, the only one that both
peers know; peers that are not installed are told (pip install pyhessian curvlinops-for-pytorch). Each gets the images in
the blocks that `normhpc analyze` takes on this device. PyHessian has a second way, all images as one batch, whose
graph it keeps. All must give the same product before anything is timed. The contestants of a round take turns; on a
processor the clock is the processor time of one thread; seconds are medians over rounds, ``times_ours`` is the median over rounds of theirs to ours. Then each looks for the largest
eigenvalue as its users would: 20 steps of Lanczos (ours), power iteration to a relative change of 1e-3 (PyHessian), SciPy's
eigsh to the same tolerance (curvlinops); ``relative_error`` is against 60 steps of Lanczos.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from normhpc import models
from normhpc.config import RunConfig
from normhpc.posthoc.curvature import Hessian, lanczos, mode_of
from normhpc.posthoc.hessian import eval_batch

Blocks = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Contestant:
    """One way to products with the Hessian and to its largest eigenvalue."""

    product: Callable[[Tensor], Tensor]
    """H v, (P,), of a vector (P,)."""
    eigenvalue: Callable[[], tuple[float, int]]
    """The largest eigenvalue and the number of products that it took."""


def trained(images: Tensor, labels: Tensor) -> nn.Module:
    """ResNet-20 with batch norm after some steps, so that its Hessian has a few large eigenvalues."""
    torch.manual_seed(0)
    model = models.build(RunConfig.model_validate({"data": "cifar10", "model": "resnet20"})).to(images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for step in range(20):
        rows = torch.arange(step * 64, step * 64 + 64, device=images.device) % len(images)
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def ours(model: nn.Module, blocks: Blocks) -> Contestant:
    """Our products, and Lanczos."""
    hessian = Hessian(model, blocks, F.cross_entropy)
    return Contestant(hessian, lambda: (by_lanczos(hessian, 20), 20))


def by_lanczos(hessian: Hessian, steps: int) -> float:
    """The largest eigenvalue by so many steps."""
    start = torch.randn(hessian.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return float(lanczos(hessian, start.to(hessian.device), steps).values[-1])


def pyhessian(model: nn.Module, blocks: Blocks) -> Contestant:
    """PyHessian over blocks, or over the one block there is, whose graph it keeps."""
    from pyhessian import hessian
    from pyhessian import hessian_vector_product as by_kept_graph

    alone = len(blocks) == 1
    given: dict[str, Any] = {"data": blocks[0]} if alone else {"dataloader": blocks}
    if not alone:  # it looks for gradients before it makes any
        F.cross_entropy(model(blocks[0][0]), blocks[0][1]).backward()
    found = hessian(model, F.cross_entropy, cuda=blocks[0][0].is_cuda, **given)
    sizes, done = [part.numel() for part in found.params], 0

    def product(vector: Tensor) -> Tensor:
        pieces = zip(torch.split(vector.float(), sizes), found.params, strict=True)
        parts = [piece.view_as(part) for piece, part in pieces]
        model.zero_grad()
        image = by_kept_graph(found.gradsH, found.params, parts) if alone else found.dataloader_hv_product(parts)[1]
        return torch.cat([part.reshape(-1) for part in image])

    def counted(parts: list[Tensor]) -> tuple[float, list[Tensor]]:
        nonlocal done
        done += 1
        return over_blocks(parts)

    def eigenvalue() -> tuple[float, int]:
        torch.manual_seed(0)
        found.dataloader_hv_product = counted
        return float(found.eigenvalues(tol=1e-3)[0][0]), done

    over_blocks = found.dataloader_hv_product
    return Contestant(product, eigenvalue)


def curvlinops(model: nn.Module, blocks: Blocks) -> Contestant:
    """curvlinops, and SciPy's eigsh, which its pages advise."""
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), blocks, check_deterministic=False
    )
    plain, done = operator.to_scipy(), 0

    def counted(vector: Any) -> Any:
        nonlocal done
        done += 1
        return plain @ vector

    def eigenvalue() -> tuple[float, int]:
        operator = LinearOperator(plain.shape, matvec=counted, dtype=plain.dtype)
        return float(eigsh(operator, k=1, which="LA", tol=1e-3, return_eigenvectors=False)[0]), done

    return Contestant(lambda vector: operator @ vector.float(), eigenvalue)


def contestants(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Contestant]:
    """Ours, and the peers that are installed."""
    size = eval_batch(images.device)
    blocks = [(images[at : at + size], labels[at : at + size]) for at in range(0, len(images), size)]
    ways: dict[str, Callable[[], Contestant]] = {
        "pyhessian": lambda: pyhessian(model, blocks),
        "pyhessian_one_batch": lambda: pyhessian(model, [(images, labels)]),
        "curvlinops": lambda: curvlinops(model, blocks),
    }
    found = {"ours": ours(model, blocks)}
    for name, way in ways.items():
        try:
            found[name] = way()
        except ModuleNotFoundError as error:
            print(f"{name}: not installed ({error})", file=sys.stderr)
    return found


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call: processor time, or on a GPU that on the wall."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def measure(images: int, rounds: int, eigenvalue_images: int) -> dict[str, Any]:
    """Seconds a product, and products and error of the largest eigenvalue, of each contestant."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(0, 10, (images,), generator=generator).to(device)
    model = trained(pixels, labels)
    with mode_of(model, "eval"):
        found = contestants(model, pixels, labels)
        vector = torch.randn(sum(weight.numel() for weight in model.parameters()), generator=generator).to(device)
        wanted = found["ours"].product(vector)
        for name, one in found.items():
            apart = float((one.product(vector) - wanted).norm() / wanted.norm())
            assert apart < 1e-4, f"{name}: the product is {apart:.1e} of its length apart from ours"
        times = [
            {name: seconds(lambda one=one: one.product(vector), device) for name, one in found.items()}  # type: ignore[misc]
            for _ in range(rounds)
        ]
        del found
        few = pixels[:eigenvalue_images], labels[:eigenvalue_images]
        exact = by_lanczos(Hessian(model, [few], F.cross_entropy), 60)
        ends = {
            name: one.eigenvalue()
            for name, one in contestants(model, *few).items()
            if name != "pyhessian_one_batch"  # the same iteration
        }
    return {
        "torch": torch.__version__,
        "seconds_per_product": {name: round(statistics.median(row[name] for row in times), 3) for name in times[0]},
        "times_ours": {
            name: round(statistics.median(row[name] / row["ours"] for row in times), 2) for name in times[0]
        },
        "lambda_max": {
            name: {"value": value, "products": products, "relative_error": abs(value / exact - 1)}
            for name, (value, products) in ends.items()
        },
    }


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eigenvalue-images", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' imports and backward passes warn
    print(json.dumps(measure(given.images, given.rounds, given.eigenvalue_images), indent=1))


if __name__ == "__main__":
    main()
