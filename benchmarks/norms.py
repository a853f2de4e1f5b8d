"""Time and memory of every norm against ``nn.BatchNorm2d`` and against timm's layer of the same name.

    python benchmarks/norms.py [--only NAME ...] [--shape N C H W] [--repeats 15] [--markdown]

Forward and backward pass with the gradients of the parameters, norm and ReLU where the norm has no activation of its
own. The contestants of a row take turns, so that a machine that drifts slows all; on CPUs the clock is the processor
time of one thread, on GPUs events. ``saved`` is what the forward pass keeps for the backward pass, in multiples of the
input. On a GPU ``bandwidth`` is the least traffic of the layer, read and written, over the time, as a share of what a
copy reaches: 5 passes over the tensor for a norm of single values or images, 8 for one over the batch.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from normhpc.norms import NORMS, Norm, build

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """One norm in one type and layout."""

    norm: str
    dtype: str
    layout: str
    ms: float
    of_batch: float
    of_timm: float | None
    saved: float
    saved_timm: float | None
    bandwidth: float | None


def timm_peers(channels: int) -> dict[str, Callable[[], nn.Module]]:
    """timm's layer, with its activation, of every norm that it has."""
    try:
        from timm import layers
        from timm.layers import grn as global_response
    except ImportError:
        return {}
    return {
        "batch": lambda: layers.BatchNormAct2d(channels),
        "layer": lambda: nn.Sequential(layers.GroupNorm1(channels), nn.ReLU()),
        "layer_pixel": lambda: nn.Sequential(layers.LayerNorm2d(channels), nn.ReLU()),
        "rms": lambda: nn.Sequential(layers.RmsNorm2d(channels), nn.ReLU()),
        "group": lambda: layers.GroupNormAct(channels, num_groups=32),
        "frn": lambda: layers.FilterResponseNormAct2d(channels),
        "frn_tlu": lambda: layers.FilterResponseNormTlu2d(channels),
        "grn": lambda: nn.Sequential(global_response.GlobalResponseNorm(channels, channels_last=False), nn.ReLU()),
        "evonorm_b0": lambda: layers.EvoNorm2dB0(channels),
        "evonorm_b1": lambda: layers.EvoNorm2dB1(channels),
        "evonorm_b2": lambda: layers.EvoNorm2dB2(channels),
        "evonorm_s0": lambda: layers.EvoNorm2dS0(channels),
        "evonorm_s1": lambda: layers.EvoNorm2dS1(channels),
        "evonorm_s2": lambda: layers.EvoNorm2dS2(channels),
    }


def saved_share(layer: nn.Module, x: Tensor) -> float:
    """Bytes kept for the backward pass over the bytes of x.

    Not counted: parameters and buffers, and the layer's output, which the layer after it keeps in any case.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
    kept.pop(y.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / x.untyped_storage().nbytes()


def seconds(layer: nn.Module, x: Tensor, grad: Tensor) -> float:
    """One forward and backward pass."""
    inputs = [x, *layer.parameters()]
    if x.device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.autograd.grad(layer(x), inputs, grad, allow_unused=True)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000
    began = time.process_time()
    torch.autograd.grad(layer(x), inputs, grad, allow_unused=True)
    return time.process_time() - began


def turns(layers: list[nn.Module], x: Tensor, grad: Tensor, repeats: int) -> list[float]:
    """The lower quartile of the seconds of each, as it runs again and again."""
    times: list[list[float]] = [[] for _ in layers]
    for _ in range(repeats):
        for own, layer in zip(times, layers, strict=True):
            # a pass that does not count: it finds the memory as the layer before left it, and pays for its pages
            seconds(layer, x, grad)
            own.append(seconds(layer, x, grad))
    return [statistics.quantiles(own, n=4)[0] for own in times]


def copy_bytes_per_second(x: Tensor) -> float:
    """Read and written by a copy."""
    target = torch.empty_like(x)
    times = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(x)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return 2 * x.untyped_storage().nbytes() / min(times)


def measure(name: str, dtype: str, layout: str, shape: tuple[int, ...], repeats: int) -> Row:
    """One row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    x = torch.randn(shape, device=device).to(DTYPES[dtype], memory_format=LAYOUTS[layout]).requires_grad_()
    grad = torch.randn_like(x)
    contestants: dict[str, nn.Module] = {"ours": build(name, shape[1])}
    peers = timm_peers(shape[1])
    if name in peers:
        contestants["timm"] = peers[name]()
    contestants["batch"] = nn.Sequential(nn.BatchNorm2d(shape[1]), nn.ReLU())
    layers = [layer.to(device) for layer in contestants.values()]
    found = dict(zip(contestants, turns(layers, x, grad, repeats), strict=True))
    bandwidth = None
    if device == "cuda":
        slot = layers[0]
        passes = 8 if isinstance(slot, Norm) and slot.scope == "batch" else 5
        bandwidth = passes * x.untyped_storage().nbytes() / found["ours"] / copy_bytes_per_second(x)
    return Row(
        norm=name,
        dtype=dtype,
        layout=layout,
        ms=1000 * found["ours"],
        of_batch=found["ours"] / found["batch"],
        of_timm=found["ours"] / found["timm"] if "timm" in found else None,
        saved=saved_share(layers[0], x),
        saved_timm=saved_share(layers[1], x) if "timm" in found else None,
        bandwidth=bandwidth,
    )


def main() -> None:
    """Print a JSON line per row, or one table with a row per norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [
        str(kind.model_fields["name"].default)
        for kind in NORMS
        if not any(f.is_required() for f in kind.model_fields.values())
    ]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--shape", nargs=4, type=int, default=(64, 64, 32, 32), metavar=("N", "C", "H", "W"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--markdown", action="store_true", help="one table instead of JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS]
    if options.markdown:
        print(f"| norm | {' | '.join(f'{dtype} {layout}' for dtype, layout in cases)} | saved |")
        print("|---" * (len(cases) + 2) + "|")
    for name in options.only:
        rows = [measure(name, *case, tuple(options.shape), options.repeats) for case in cases]
        if options.markdown:
            cells = [_cell(row) for row in rows]
            saved = max(row.saved for row in rows)
            print(f"| `{name}` | {' | '.join(cells)} | {saved:.2f} |", flush=True)
        else:
            for row in rows:
                print(json.dumps(asdict(row)), flush=True)


def _cell(row: Row) -> str:
    """Milliseconds, then the ratio to batch norm and to timm's layer."""
    ratios = [f"{ratio:.2f}" for ratio in (row.of_batch, row.of_timm) if ratio is not None]
    return f"{row.ms:.1f} ({', '.join(ratios)})"


if __name__ == "__main__":
    main()
