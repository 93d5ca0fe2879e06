"""The toy's matrices are too small to share out: one thread each, here and in the processes that these tests start."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """On a machine that has other work too, threads that wait for each other make these tests ten times slower."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
