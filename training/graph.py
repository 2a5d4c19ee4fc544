"""A CUDA graph of the forward and backward pass: the host launches one graph in place of a thousand kernels."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from errors import UserError
from training import processes
from training.settings import Train

WARM_UP = 3  # calls before the capture, in which libraries choose kernels and allocate


def replays(settings: Train, device: torch.device) -> bool:
    """Return whether steps are replayed as a graph, which changes results by rounding at most: on one GPU, if they are not compiled."""
    return settings.cuda_graph and device.type == "cuda" and processes.count() == 1 and not settings.compile


class Graph:
    """Replay a function of a batch that leaves gradients; batches must have one shape, and nothing may read the GPU."""

    def __init__(self, work: Callable[[tuple[Tensor, ...]], Tensor], forget: Callable[[], None], moved: Iterable[Tensor] = ()):
        """`work` takes a batch of tensors, adds to the gradients and returns losses (B,). `forget` sets gradients to None.

        `work` may change `moved` in place and draw from torch's global generator; a run with a graph draws what one without draws.
        """
        self.work, self.forget, self.moved = work, forget, list(moved)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return `work(batch)`, with the gradients of this batch alone. Raises UserError if the first call cannot be captured."""
        if self.graph is None:
            self._capture(batch)
        assert self.graph and [kept.shape for kept in self.batch] == [new.shape for new in batch]
        for kept, new in zip(self.batch, batch):
            kept.copy_(new)
        self.graph.replay()
        return self.losses

    def _capture(self, batch: tuple[Tensor, ...]) -> None:
        self.batch = tuple(tensor.clone() for tensor in batch)
        before = [tensor.clone() for tensor in self.moved]
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.random.fork_rng([torch.cuda.current_device()]), torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.forget()
                    self.work(self.batch)
            torch.cuda.current_stream().wait_stream(stream)
            for tensor, value in zip(self.moved, before):
                tensor.copy_(value)
            self.forget()  # so that the graph owns the gradients that its backward pass makes
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.losses = self.work(self.batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"train.cuda_graph: the step cannot be captured here ({reason}); set train.cuda_graph=false") from None
        self.graph = graph
