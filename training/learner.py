"""One network and everything that updates it: guard, clipping, learning rate, optimiser, EMA, several processes."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.precision import LOSS_SCALE
from training import processes
from training.clipping import Clipping
from training.compiling import compiled, telling_of_compilation
from training.ema import Ema
from training.graph import Graph, replays
from training.guard import Diverged, Guard
from training.optimizer import MuonAdamW, gradient_of, load_adamw, make_optimizer, set_learning_rate
from training.settings import Train


class Learner:
    """Update a network by the gradient of a loss, and keep its EMA."""

    def __init__(self, network: nn.Module, settings: Train, *, n: int, device: torch.device, averaged: nn.Module | None = None):
        """Prepare to train `network` on `n` images; the EMA averages `averaged`, a part of it or nothing (None: all)."""
        self.network, self.settings, self.device = network, settings, device
        self.moved = list(network.buffers())  # what a step changes beside weights; the method adds what else its loss changes
        self.steps_per_epoch = settings.steps_per_epoch(n)
        self.averaged = network if averaged is None else averaged
        self.ema = Ema(self.averaged, settings.ema_decay)
        self.optimizer = make_optimizer(network, settings)
        self.clipping = Clipping(list(network.parameters()), settings.clip) if settings.clip else None
        self.guard = Guard(self.optimizer, device, LOSS_SCALE.get(settings.precision, 1.0))
        self.parallel = processes.parallel(network)
        self.forward = compiled(self.parallel) if settings.compile else self.parallel  # the loss calls this
        self.replays = replays(settings, device)
        self.graph: Graph | None = None

    def step(self, batch: tuple[Tensor, ...], loss: Callable[..., tuple[Tensor, Tensor]], step: int) -> Tensor:
        """Take step `step` down the gradient of a batch's mean loss, without host synchronisation; return the losses (B,).

        `batch` holds tensors (B, ...). `loss` takes a micro-batch of them, (b, ...) each, and returns two losses (b,): the
        one to minimise and the one to report. On a GPU its kernels are recorded in the first step and replayed in the others: it
        must do the same in every step, read no value back, and find what else it uses in the same tensors. Raises Diverged on
        a CPU; on a GPU `check` does.
        """
        losses = self._gradients(batch, loss)
        norms = torch.stack(torch._foreach_norm([gradient_of(parameter) for parameter in self.network.parameters()]))
        self.guard.watch(norms.sum() + losses.sum(), step)
        if self.clipping:
            self.clipping.clip(norms)
        set_learning_rate(self.optimizer, self.learning_rate(step))
        self.optimizer.step()
        self.ema.update(self.averaged, step)
        return losses

    def _gradients(self, batch: tuple[Tensor, ...], loss: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        """Set the gradients to those of the batch's mean loss; return the reported losses (B,)."""
        if not self.replays:
            self.optimizer.zero_grad(set_to_none=True)
            return self._backward(batch, loss)
        self.graph = self.graph or Graph(lambda rows: self._backward(rows, loss), self.optimizer.zero_grad, self.moved)
        return self.graph(batch)

    def _backward(self, batch: tuple[Tensor, ...], loss: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        """Accumulate the gradient of the mean loss over micro-batches; return the reported losses (B,).

        Every process takes its share of the batch. If there are fewer rows than processes, a process without a row takes
        row 0 with weight 0, because all must take part in averaging the gradients.
        """
        num = len(batch[0])
        share, scaled = slice(processes.rank(), None, processes.count()), self.guard.most > 1
        losses = torch.zeros(num, device=self.device)
        own, weight = (share, processes.count() / num) if len(losses[share]) else (slice(1), 0.0)
        parts, found = list(zip(*(rows[own].split(self.settings.micro_batch or num) for rows in batch))), []
        for number, part in enumerate(parts, 1):
            with telling_of_compilation(), processes.no_sync(self.parallel, number < len(parts)):
                minimised, reported = loss(*part)
                mean = weight * minimised.sum()
                (mean * self.guard.scale if scaled else mean).backward()
            found.append(reported.detach().float())
        if scaled:
            torch._foreach_mul_([gradient_of(parameter) for parameter in self.network.parameters()], 1 / self.guard.scale)
        losses[share] = torch.cat(found)[: len(losses[share])]
        return processes.all_sum(losses)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        settings = self.settings
        rate = settings.learning_rate * min(1.0, (step + 1) / (settings.warmup_steps + 1))
        if settings.schedule == "cosine":
            rate *= (1 + math.cos(math.pi * step / (settings.epochs * self.steps_per_epoch))) / 2
        elif settings.schedule == "step":
            rate *= settings.decay_factor ** (step // (settings.decay_epochs * self.steps_per_epoch))
        return rate

    def check(self, step: int, weights: bool = False) -> None:
        """Raise Diverged if a step before `step`, or with `weights` a weight, is not finite; the host waits for the device."""
        self.guard.check()
        if weights and not torch.isfinite(nn.utils.get_total_norm(self.network.parameters())):
            raise Diverged("a weight", step)

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except the EMA."""
        state: dict[str, Any] = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"loss_scale": self.guard.scale} if self.guard.most > 1 else {}
        return state | ({"usual_norms": self.clipping.usual} if self.clipping else {})

    def load_state_dict(self, state: dict, average: dict) -> None:
        """Restore what `state_dict` returned and the EMA's weights; settings that may change keep their present values."""
        self.network.load_state_dict(state["network"])
        self.ema.module.load_state_dict(average)
        if isinstance(self.optimizer, MuonAdamW):
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            load_adamw(self.optimizer, state["optimizer"])
        for group in self.optimizer.param_groups:  # the state holds the weight decay of the earlier start
            group["weight_decay"] = self.settings.weight_decay
        if "loss_scale" in state:  # absent if the earlier start did not scale
            self.guard.scale.copy_(state["loss_scale"].clamp(1, self.guard.most))
        if self.clipping and "usual_norms" in state:  # absent if the earlier start did not clip
            self.clipping.usual.copy_(state["usual_norms"])
