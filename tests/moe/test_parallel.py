"""Experts over several processes compute what one process computes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from wye.moe import Experts, MoEError, MoELayer, get_router
from wye.moe.parallel import parallelise_experts

pytestmark = pytest.mark.torch

WORKER = Path(__file__).with_name("parallel_worker.py")


def run(scenario: str, size: int, tmp_path: Path) -> None:
    """Start `size` processes and fail with the words of the first that failed."""
    store = tmp_path / "store"
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), scenario, str(rank), str(size), str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    failed = [text for process, text in zip(processes, said, strict=True) if process.returncode]
    assert not failed, failed[0]


def test_four_processes_equal_one(tmp_path):
    run("experts", 4, tmp_path)


def test_two_processes_equal_one_however_the_model_is_spread(tmp_path):
    """Starting processes costs most, so one pair of them runs all scenarios of the worker."""
    scenarios = ("experts", "no_tokens", "fully_sharded", "experts_and_fully_sharded", "balance")
    run(",".join(scenarios), 2, tmp_path)


def test_models_and_meshes_that_cannot_be_spread_are_refused(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        with pytest.raises(MoEError, match="no MoELayer"):
            parallelise_experts(torch.nn.Linear(2, 2), mesh)
        layer = MoELayer(get_router("top_k", 4, 3), Experts(3, 4, 8))
        model = torch.nn.Sequential(layer)
        assert parallelise_experts(model, mesh) == ["0.experts.up", "0.experts.down"]
        grid = init_device_mesh("cpu", (1, 1))
        with pytest.raises(MoEError, match="2 dimensions"):
            parallelise_experts(torch.nn.Sequential(MoELayer(layer.router, Experts(3, 4, 8))), grid)
    finally:
        torch.distributed.destroy_process_group()
