"""A training changes torch's settings for its process; here many trainings and other tests share one."""

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_as_before():
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(1)
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = fills
