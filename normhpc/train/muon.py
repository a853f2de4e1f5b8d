"""Muon for the matrices of a network and AdamW for all else, as one optimizer."""

from itertools import chain
from typing import Any

import torch

from normhpc.config.training import Muon
from normhpc.train.plain import PlainAdamW, PlainMuon, without_compiler


class Matrix:
    """A weight of two or more dimensions as the matrix (outputs, all else), in the weight's own memory."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.parameter = parameter
        # in the order in which they lie in memory, which channels_last changes: columns in another order are a
        # rotation, and what is orthogonal stays so
        inner = sorted(range(1, parameter.ndim), key=parameter.stride, reverse=True)
        self._order = (0, *inner)
        self.view = self._of_weight()

    def _of_weight(self) -> torch.Tensor:
        return self.parameter.detach().permute(self._order).view(len(self.parameter), -1)

    def take_gradient(self) -> None:
        """Give the matrix the gradient of its weight, and its memory where the weight was moved."""
        if self.view.data_ptr() != self.parameter.data_ptr():
            self.view.data = self._of_weight()
        gradient = self.parameter.grad
        self.view.grad = None if gradient is None else gradient.permute(self._order).reshape(self.view.shape)


class _MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon on the groups whose ``matrices`` is true, torch's AdamW with betas 0.9 and 0.95 on the others.

    For a matrix W (a x b) with gradient G, momentum m and learning rate l:

        B <- m B + (1 - m) G,   U = (1 - m) G + m B with Nesterov's momentum, else B
        W <- (1 - l weight_decay) W - l sqrt(max(1, a / b)) NS(U)

    NS: ``ns_steps`` Newton-Schulz iterations in bf16, which bring the singular values of U near 1.
    """

    def __init__(self, groups: list[dict[str, Any]], optim: Muon) -> None:
        super().__init__(groups, {"lr": optim.lr})
        of_matrices = [group for group in self.param_groups if group["matrices"]]
        others = [group for group in self.param_groups if not group["matrices"]]
        self._matrices = [[Matrix(parameter) for parameter in group["params"]] for group in of_matrices]
        self._parts: list[tuple[torch.optim.Optimizer, list[dict[str, Any]]]] = []
        # torch's optimizers refuse to have nothing to do
        if of_matrices:
            views = [
                {**group, "params": [matrix.view for matrix in matrices]}
                for group, matrices in zip(of_matrices, self._matrices, strict=True)
            ]
            muon = PlainMuon(views, momentum=optim.momentum, nesterov=optim.nesterov, ns_steps=optim.ns_steps)
            self._parts.append((muon, of_matrices))
        if others:
            adamw = PlainAdamW([{**group} for group in others], betas=(0.9, 0.95), fused=True)
            self._parts.append((adamw, others))

    def step(self, closure: Any = None) -> Any:
        """One update of both. ``closure`` is not supported."""
        matrices = list(chain.from_iterable(self._matrices))
        for matrix in matrices:
            matrix.take_gradient()
        for part, groups in self._parts:
            for own, group in zip(part.param_groups, groups, strict=True):
                own["lr"] = group["lr"]
            part.step()
        for matrix in matrices:
            matrix.view.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {type(part).__name__: part.state_dict() for part, _ in self._parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for part, _ in self._parts:
            part.load_state_dict(state_dict[type(part).__name__])


MuonAndAdamW = without_compiler(_MuonAndAdamW)
