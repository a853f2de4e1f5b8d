"""How much of the image a value inside a network can depend on.

Along the rows of the image: out = floor((in + 2 padding - kernel) / stride) + 1, RF = RF in + (kernel - 1) jump in,
jump = jump in * stride (Araujo et al. 2019, doi:10.23915/distill.00021). Where paths meet, the longest counts.
Statistics of norms, which reach further, are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from normhpc.errors import InputError
from normhpc.models.facts import evaluating, tensors
from normhpc.models.vit import DotProduct
from normhpc.norms import Norm


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """One layer that looks at windows of a map, along the map's rows."""

    layer: str
    """Its place in the network; a function called outside of a layer follows its caller's place in brackets."""
    rows_in: int
    """Rows of its input."""
    rf_in: int
    """Rows of the image that a value of its input depends on."""
    jump_in: int
    """Rows of the image from one row of its input to the next."""
    padding: int
    kernel: int
    """Rows from the first to the last that a window reads."""
    stride: int
    rows_out: int
    """Rows of its output."""
    rf: int
    """Rows of the image that a value of its output depends on; it may reach beyond the image, into the padding."""
    jump: int
    """Rows of the image from one row of its output to the next."""


def receptive_fields(model: nn.Module, example: Tensor) -> list[ReceptiveField]:
    """The convolutions, poolings and linear layers of ``model`` in the order of their calls on ``example``.

    ``example`` is a batch (N, C, H, W). Functions are followed as well as modules. A pooling over the whole map, and
    whatever else makes one row of a map's, is a window of the map's size; a linear layer on (N, F) is one of 1. Linear
    layers on tokens change nothing and have no row; attention is a window over the tokens that reaches the whole image.

    Raises :class:`~normhpc.errors.InputError` where an operation changes the rows of a map in another way.
    """
    trace = _Trace(example)
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(trace.entering(name)))
        handles.append(module.register_forward_hook(trace.leaving, with_kwargs=True))
    try:
        with evaluating(model), trace:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return trace.rows


class _Reach(NamedTuple):
    """Receptive field and jump of a tensor."""

    rf: int
    jump: int


class _Window(NamedTuple):
    """What a layer reads at a time; the kernel with its dilation."""

    kernel: int
    stride: int
    padding: int


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries the reach of the image from tensor to tensor, through modules that are known and all operations else."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[ReceptiveField] = []
        self.image_rows = example.shape[2]
        self.reaches = WeakIdKeyDictionary()
        self.reaches[example] = _Reach(1, 1)
        self.places: list[str] = []
        self.inside = 0
        """How many known modules the pass is inside of; what they compute is theirs."""

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        """The hook before the call of a module."""

        def hook(module: nn.Module, _: Any) -> None:
            self.places.append(name)
            self.inside += isinstance(module, _KNOWN)

        return hook

    def leaving(self, module: nn.Module, inputs: Any, named: Any, result: Any) -> None:
        """The hook after the call of a module."""
        place = self.places.pop()
        self.inside -= isinstance(module, _KNOWN)
        if self.inside or not isinstance(module, _KNOWN):
            return
        x, output = tensors((inputs, named))[0], tensors(result)[0]
        if x not in self.reaches:
            return
        reach: _Reach = self.reaches[x]
        if isinstance(module, DotProduct | nn.MultiheadAttention):
            tokens = x.shape[0 if isinstance(module, nn.MultiheadAttention) and not module.batch_first else -2]
            seen = _Reach(max(reach.rf, self.image_rows), reach.jump)
            self.rows.append(ReceptiveField(place, tokens, *reach, 0, tokens, 1, tokens, *seen))
            self.reaches[output] = seen
        elif (window := _window_of(module, x, output)) is not None:
            self.look(place, x, output, window)
        else:
            self.reaches[output] = reach

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``; outside of known modules its results have the longest reach of its arguments."""
        result = func(*args, **(kwargs or {}))
        if not self.inside:
            self.follow(func, args, kwargs, result)
        return result

    def follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Give the results of an operation their reach."""
        sources = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x in self.reaches]
        outputs = [y for y in tree_leaves(result) if isinstance(y, Tensor)]
        if not sources or not outputs:
            return
        x, y, operation = max(sources, key=_rows), outputs[0], func.overloadpacket.__name__
        if (window := _window_of_function(operation, args, x, y, is_view=func.is_view)) is not None:
            place = self.places[-1] if self.places else ""
            self.look(f"{place} ({operation})".strip(), x, y, window)
            return
        if x.ndim == y.ndim == 4 and _rows(x) != _rows(y) and not func.is_view and "pad" not in operation:
            raise InputError(
                f"receptive fields: {operation} makes {_rows(y)} rows of {_rows(x)}, which is no window; "
                "give an example of the size that the network works at, or another network"
            )
        reach = _Reach(max(self.reaches[z].rf for z in sources), max(self.reaches[z].jump for z in sources))
        for output in outputs:
            self.reaches[output] = reach

    def look(self, place: str, x: Tensor, y: Tensor, window: _Window) -> None:
        """A row of the table: ``y`` is made of windows of ``x``."""
        reach: _Reach = self.reaches[x]
        seen = _Reach(reach.rf + (window.kernel - 1) * reach.jump, reach.jump * window.stride)
        self.rows.append(
            ReceptiveField(place, _rows(x), *reach, window.padding, window.kernel, window.stride, _rows(y), *seen)
        )
        self.reaches[y] = seen


_KNOWN = (
    nn.Conv2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Linear,
    nn.MultiheadAttention,
    Norm,
    DotProduct,
)


def _window_of(module: nn.Module, x: Tensor, output: Tensor) -> _Window | None:
    if isinstance(module, nn.Conv2d):
        reach = (module.kernel_size[0] - 1) * module.dilation[0] + 1
        padding = module.padding
        same = {"same": (reach - 1) // 2, "valid": 0}
        return _Window(reach, module.stride[0], same[padding] if isinstance(padding, str) else padding[0])
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return _Window(_first(module.kernel_size), _first(module.stride), _first(module.padding))
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        stride = _rows(x) // _rows(output)
        return _Window(_rows(x) - (_rows(output) - 1) * stride, stride, 0)
    if isinstance(module, nn.Linear) and x.ndim == 2:
        return _Window(1, 1, 0)
    return None


def _window_of_function(operation: str, args: Any, x: Tensor, y: Tensor, *, is_view: bool) -> _Window | None:
    if operation == "convolution" and not args[6]:
        kernel = (args[1].shape[2] - 1) * _first(args[5]) + 1
        return _Window(kernel, _first(args[3]), _first(args[4]))
    if operation in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, stride, padding = (*args[1:4], *(None, None, None))[:3]
        return _Window(_first(kernel), _first(stride or kernel), _first(padding or 0))
    one_row = y.ndim == 2 or (y.ndim == 4 and _rows(y) == 1 and not is_view)
    if x.ndim == 4 and _rows(x) > 1 and one_row:
        return _Window(_rows(x), _rows(x), 0)
    return None


def _rows(x: Tensor) -> int:
    return x.shape[2] if x.ndim == 4 else 1


def _first(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])
