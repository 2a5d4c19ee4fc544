"""The optimisers: AdamW, or Muon for the convolutions with AdamW for the rest.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) updates a weight matrix by the orthogonal matrix nearest to
the gradient's momentum, so that the step has the same size in all directions. Multiplied by 0.2 sqrt(max(rows, columns))
the step is as long as AdamW's (Liu et al. 2025, section 2.2), so both use one learning rate.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from training.settings import Train

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: converges fast, to singular values near 1 but not equal to 1
ITERATIONS = 3
SMALLEST = 8  # AdamW updates matrices with fewer rows or columns, such as the output colours


def make_optimizer(network: nn.Module, settings: Train) -> "torch.optim.Optimizer | MuonAdamW":
    """Return the optimiser that `train.optimizer` names, for a network with its heads, if any."""
    if settings.optimizer == "adamw":
        return adamw(dict(network.named_parameters()), settings)
    return MuonAdamW(network, settings)


def adamw(parameters: dict[str, nn.Parameter], settings: Train) -> torch.optim.Optimizer:
    """Return fused AdamW for parameters by name; a group's "share" multiplies the learning rate."""
    groups: list[dict[str, Any]] = [{"params": list(parameters.values())}]
    if settings.mapping_rate != 1:
        mapping = {name for name in parameters if "mapping." in name}
        groups = [
            {"params": [parameters[name] for name in parameters if name not in mapping]},
            {"params": [parameters[name] for name in parameters if name in mapping], "share": settings.mapping_rate},
        ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.betas[0], settings.betas[1]), weight_decay=settings.weight_decay, fused=True
    )


def load_adamw(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restore AdamW's `state_dict()`. The fused update pairs a weight with its moments in the order of memory, so layouts are aligned."""
    optimizer.load_state_dict(state)
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(value)


def set_learning_rate(optimizer: "torch.optim.Optimizer | MuonAdamW", rate: float) -> None:
    """Set every group's learning rate to its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


class MuonAdamW:
    """Muon for the convolutions, AdamW for everything else.

    Muon for the mapping network and the styles' affine layers improved nothing, and takes longer than for all
    convolutions together.
    """

    def __init__(self, generator: nn.Module, settings: Train):
        groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for matrix in matrices(generator):
            groups.setdefault(tuple(bucket(side) for side in wide(matrix).shape), []).append(matrix)
        self.stacks = [Stack(group) for group in groups.values()]
        taken = {id(matrix) for group in groups.values() for matrix in group}
        self.rest = adamw({name: p for name, p in generator.named_parameters() if id(p) not in taken}, settings)
        device = next(generator.parameters()).device
        self.found_inf = torch.zeros((), dtype=torch.float32, device=device)  # while it is 1, step() changes nothing

    @property
    def param_groups(self) -> list[dict]:
        """Return AdamW's groups; Muon uses the learning rate and weight decay of the first."""
        return self.rest.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        self.rest.zero_grad(set_to_none)
        for matrix in (matrix for stack in self.stacks for matrix in stack.matrices):
            matrix.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights by their gradients."""
        group, failed = self.param_groups[0], self.found_inf > 0
        for stack in self.stacks:
            stack.step(group["lr"], group["lr"] * group["weight_decay"], failed)
        self.rest.found_inf = self.found_inf  # type: ignore[attr-defined]  # the fused kernels read it
        self.rest.step()

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except the weights."""
        return {"momenta": [stack.momentum for stack in self.stacks], "rest": self.rest.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        for stack, saved in zip(self.stacks, state["momenta"], strict=True):
            stack.momentum.copy_(saved)
        load_adamw(self.rest, state["rest"])


class Stack:
    """Matrices of similar shapes, updated as one batch; each is padded with zeros, which stay zeros."""

    def __init__(self, group: list[nn.Parameter]):
        self.matrices = group
        shapes = [wide(matrix).shape for matrix in group]
        rows, columns = (max(sides) for sides in zip(*shapes))
        self.momentum = group[0].new_zeros(len(group), rows, columns)
        self.gradient = torch.zeros_like(self.momentum)
        self.shapes = shapes
        self.lengths = group[0].new_tensor([0.2 * math.sqrt(columns) for _, columns in shapes])[:, None, None]

    def step(self, rate: float, decay: float, failed: Tensor) -> None:
        """Update the matrices by their gradients, unless `failed` ()."""
        torch._foreach_copy_(self._places(self.gradient), [wide(gradient_of(matrix)) for matrix in self.matrices])
        gradient = torch.where(failed, self.momentum, self.gradient)  # lerp towards itself leaves the momentum unchanged
        self.momentum.lerp_(gradient, 1 - MOMENTUM)
        steps = orthogonal(gradient.lerp(self.momentum, MOMENTUM)).mul_(self.lengths * (-rate * ~failed))
        weights = list[Tensor](self.matrices)
        torch._foreach_mul_(weights, torch.where(failed, 1.0, 1 - decay))
        torch._foreach_add_(weights, [shaped(step, weight.shape) for step, weight in zip(self._places(steps), weights)])

    def _places(self, stack: Tensor) -> list[Tensor]:
        """Return each matrix of `stack` without its padding."""
        return [matrix[:rows, :columns] for matrix, (rows, columns) in zip(stack, self.shapes)]


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter; it must have one."""
    assert parameter.grad is not None
    return parameter.grad


def wide(weight: Tensor) -> Tensor:
    """Return a convolution's weight as a matrix (outputs, inputs * height * width), or its transpose if that is wider.

    It is a copy if the weight is channels_last, so writing to it may not change the weight.
    """
    matrix = weight.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def shaped(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return what `wide` made of a weight of this shape in that shape again."""
    return (matrix if matrix.shape[0] == shape[0] else matrix.mT).unflatten(1, shape[1:])


def bucket(side: int) -> int:
    """Return the smallest of 2, 8, 32, 128 ... that is at least `side`."""
    return 2 * 4 ** math.ceil(math.log(side / 2, 4)) if side > 2 else 2


def matrices(generator: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon updates: all convolutions except small ones."""
    weights = [layer.get_parameter("weight") for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    return [weight for weight in weights if min(weight.flatten(1).shape) >= SMALLEST]


def orthogonal(stack: Tensor) -> Tensor:
    """Return `stack` (k, rows, columns >= rows) with the singular values of every matrix moved near 1 (Newton-Schulz)."""
    a, b, c = NEWTON_SCHULZ
    x = stack / (torch.linalg.matrix_norm(stack, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x
