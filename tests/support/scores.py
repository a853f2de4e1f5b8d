"""Random logits and labels."""

import numpy as np
import torch


def random_scores(
    classes: int, dtype: torch.dtype = torch.float32, rows: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows, classes) and labels (rows,)."""
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    return logits.to(dtype), torch.randint(classes, (rows,), generator=generator)


def log_probabilities(logits: torch.Tensor) -> np.ndarray:
    """The log-softmax in float64."""
    values = logits.double().numpy()
    highest = values.max(axis=1, keepdims=True)
    return values - highest - np.log(np.exp(values - highest).sum(axis=1, keepdims=True))
