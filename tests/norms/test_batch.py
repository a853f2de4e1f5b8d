import pytest
import torch
from torch import nn

from normhpc.config.norm import BatchNorm
from normhpc.errors import InputError
from normhpc.norms import build


def test_follows_torch_over_several_steps_and_in_evaluation():
    slot, native = build({"name": "batch", "momentum": 0.3, "eps": 1e-3}, 6), nn.BatchNorm2d(6, eps=1e-3, momentum=0.3)
    generator = torch.Generator().manual_seed(0)
    for images in (4, 1, 3):
        x = 3 * torch.randn(images, 6, 3, 5, generator=generator) + 2
        assert torch.equal(slot(x), native(x).relu())
    assert slot.state_dict().keys() == native.state_dict().keys()
    for name, value in native.state_dict().items():
        assert torch.equal(slot.state_dict()[name], value), name
    slot.eval()
    native.eval()
    assert torch.equal(slot(x), native(x).relu())
    assert slot.num_batches_tracked == 3


def test_loads_and_gives_states_of_torch():
    slot, native = build("batch", 4), nn.BatchNorm2d(4)
    native(torch.randn(3, 4, 2, 2))
    slot.load_state_dict(native.state_dict())
    nn.BatchNorm2d(4).load_state_dict(slot.state_dict())


def test_running_variance_is_unbiased_and_the_output_is_not():
    slot = build({"name": "batch", "momentum": 1.0}, 1, "none")
    x = torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1, 1)
    y = slot(x)
    assert slot.running_var.item() == pytest.approx(7.0)
    torch.testing.assert_close(y.flatten(), (x.flatten() - 3) / (14 / 3) ** 0.5, rtol=1e-5, atol=1e-5)


def test_evaluation_of_an_image_does_not_depend_on_its_batch():
    slot = build("batch", 4)
    x = torch.randn(8, 4, 3, 3)
    slot(x)
    slot.eval()
    torch.testing.assert_close(slot(x)[:1], slot(x[:1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sync", [False, True])
def test_one_value_per_channel_is_refused_in_training_only(sync):
    slot = build(BatchNorm(sync=sync), 3)
    with pytest.raises(InputError, match=r"^norm: batch norm over one value per channel is always 0 .*\(1, 3, 1, 1\)"):
        slot(torch.randn(1, 3, 1, 1))
    assert slot.eval()(torch.randn(1, 3, 1, 1)).isfinite().all()
    assert torch.equal(slot.running_var, torch.ones(3))


def test_sync_without_other_ranks_is_plain():
    plain, sync = build("batch", 4), build({"name": "batch", "sync": True}, 4)
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(plain(x), sync(x))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in sync.state_dict().items())
