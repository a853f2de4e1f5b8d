"""Arithmetic of the forward and backward pass."""

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context of a ``precision``; does nothing for fp32. Wrap the forward pass and the loss only."""
    return torch.autocast(device.type, dtype=_DTYPES.get(precision, torch.bfloat16), enabled=precision in _DTYPES)


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss of fp16 runs so that small gradients survive; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
