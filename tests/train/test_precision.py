"""Arithmetic of the forward and backward pass."""

import pytest
import torch

from normhpc.train.precision import autocast, gradient_scaler

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_taken_in_the_precision_asked_for(precision, dtype):
    weight = torch.ones(2, 2, requires_grad=True)
    with autocast(precision, CPU):
        product = weight @ weight
    assert product.dtype == dtype
    product.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_only_fp16_is_scaled():
    assert [gradient_scaler(name, CPU).is_enabled() for name in ("fp32", "bf16", "fp16")] == [False, False, True]
    loss = torch.tensor(2.0)
    assert gradient_scaler("fp32", CPU).scale(loss) is loss
    assert gradient_scaler("fp16", CPU).scale(loss) == 2.0 * 65536
