"""Arithmetic of the forward and backward pass."""

import contextlib

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The autocast context of a ``precision``; nothing for fp32. Wrap the forward pass and the loss only."""
    if precision not in _DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss of fp16 runs so that small gradients survive; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
