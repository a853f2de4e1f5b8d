"""torch's optimizers without the ties to its compiler."""

import inspect
from typing import TypeVar, cast

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def without_compiler(kind: type[Kind]) -> type[Kind]:
    """``kind`` with plain methods instead of those that import ``torch._dynamo`` at their first call.

    That import only tells a compiler how to treat an optimizer that it is asked to trace, which is never done here,
    and it takes longer than a small run trains. What else the wrappers do, turning gradients off, is kept.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Kind], type(kind.__name__, (kind,), methods))


PlainSgd = without_compiler(torch.optim.SGD)
PlainAdam = without_compiler(torch.optim.Adam)
PlainAdamW = without_compiler(torch.optim.AdamW)
PlainMuon = without_compiler(torch.optim.Muon)
