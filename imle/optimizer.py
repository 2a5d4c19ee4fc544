"""The optimisers: AdamW, or Muon for the convolutions with AdamW for the rest.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) steps along the orthogonal matrix nearest to the momentum
of the gradient, so that all its directions are learnt at one pace. Multiplied by 0.2 sqrt(max(rows, columns)) its steps
are as long as AdamW's (Liu et al. 2025, section 2.2), and one learning rate serves both.
"""

import math

import torch
from torch import Tensor, nn

from imle.config import Train

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: fast, and singular values only near 1
ITERATIONS = 3
SMALLEST = 8  # rows and columns; what is smaller gains nothing


def make_optimizer(generator: nn.Module, settings: Train) -> "torch.optim.Optimizer | MuonAdamW":
    """Return the optimiser that `train.optimizer` names."""
    if settings.optimizer == "adamw":
        return adamw(list(generator.parameters()), settings)
    return MuonAdamW(generator, settings)


def adamw(parameters: list[nn.Parameter], settings: Train) -> torch.optim.Optimizer:
    """Return AdamW in one kernel."""
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=tuple(settings.betas),
                             weight_decay=settings.weight_decay, fused=True)  # fmt: skip


class MuonAdamW:
    """Muon for the convolutions, AdamW for everything else.

    To orthogonalise the mapping network and the styles' affine layers too gained nothing, and takes longer than all
    convolutions together.
    """

    def __init__(self, generator: nn.Module, settings: Train):
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices(generator):
            by_shape.setdefault(matrix.flatten(1).shape, []).append(matrix)
        self.stacks = list(by_shape.values())  # what has one shape is worked on together
        self.momenta = [torch.zeros(len(stack), *shape, device=stack[0].device) for shape, stack in by_shape.items()]
        taken = {id(matrix) for stack in self.stacks for matrix in stack}
        self.rest = adamw([p for p in generator.parameters() if id(p) not in taken], settings)
        self.found_inf = torch.zeros((), device=self.momenta[0].device)  # while it is 1, gradients change nothing

    @property
    def param_groups(self) -> list[dict]:
        """Return the groups whose "lr" is the learning rate of all."""
        return self.rest.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.rest.zero_grad(set_to_none)
        for matrix in (matrix for stack in self.stacks for matrix in stack):
            matrix.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights by their gradients."""
        group, failed = self.param_groups[0], self.found_inf > 0
        for stack, momentum in zip(self.stacks, self.momenta):
            gradient = torch.stack([matrix.grad.flatten(1) for matrix in stack]).masked_fill_(failed, 0)  # (k, rows, columns)
            momentum.lerp_(gradient, 1 - MOMENTUM)
            length = 0.2 * math.sqrt(max(momentum.shape[1:]))
            steps = orthogonal(gradient.lerp(momentum, MOMENTUM)).mul_(-group["lr"] * length).masked_fill_(failed, 0)
            torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])  # finite, so it may go on after a failure
            torch._foreach_add_(stack, [step.view_as(matrix) for step, matrix in zip(steps, stack)])
        self.rest.found_inf = self.found_inf
        self.rest.step()

    def state_dict(self) -> dict:
        return {"momenta": self.momenta, "rest": self.rest.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self.rest.load_state_dict(state["rest"])


def matrices(generator: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon updates: convolutions, each a matrix (outputs, inputs times places)."""
    weights = [layer.weight for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    return [weight for weight in weights if min(weight.flatten(1).shape) >= SMALLEST]


def orthogonal(stack: Tensor) -> Tensor:
    """Return about the nearest matrices to `stack` (k, rows, columns) whose singular values are all equal, near 1."""
    a, b, c = NEWTON_SCHULZ
    wide = stack if stack.shape[1] <= stack.shape[2] else stack.mT
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide if wide.shape == stack.shape else wide.mT
