"""Modules as `nn.DataParallel` calls them, on a machine without a GPU; and two processes that train together."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def replica_of(network: nn.Module) -> nn.Module:
    "What `nn.DataParallel` calls on each GPU, on the CPU: without parameters, copies of which stand as attributes."
    copies = {module: module._replicate_for_data_parallel() for module in network.modules()}
    values = {each: each * 1 for each in network.parameters()}  # gradients lead back
    for module, replica in copies.items():
        replica._former_parameters = {}
        for name, child in module._modules.items():
            setattr(replica, name, copies[child])
        for name, value in module._parameters.items():
            if value is not None:
                setattr(replica, name, values[value])
                replica._former_parameters[name] = values[value]
    return copies[network]


def gradients_in_two_processes(rank: int, network: nn.Module, inputs: torch.Tensor, folder: str) -> None:
    "Each process takes every second row; the first writes the gradients, which `DistributedDataParallel` averages."
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    together = nn.parallel.DistributedDataParallel(network)
    for _ in range(2):  # a second step, as the first one may leave something behind
        together.zero_grad()
        together(inputs[rank::2]).square().mean().backward()
    if rank == 0:
        torch.save([each.grad for each in network.parameters() if each.requires_grad], f"{folder}/gradients")
    torch.distributed.destroy_process_group()


def assert_two_processes_learn_alike(network: nn.Module, inputs: torch.Tensor, folder: Path) -> None:
    "The mean of two processes' gradients is the gradient of all rows in one process."
    network(inputs).square().mean().backward()
    wanted = [each.grad.clone() for each in network.parameters() if each.requires_grad]
    network.zero_grad()
    torch.multiprocessing.spawn(gradients_in_two_processes, (network, inputs, str(folder)), 2)
    torch.testing.assert_close(torch.load(folder / "gradients"), wanted, rtol=1e-4, atol=1e-6)
