"""A step whose loss or gradient is not finite changes nothing, and the host need not wait for the device to know."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

READ_EVERY = 20  # steps on a device that works while the host goes on


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN; the step that it belongs to changed nothing."""


class StepGuard:
    """Takes the optimizer's steps, and none from the first bad one on.

    Whether a step is bad is computed on the device. It decides there which running statistics stay and, as
    ``found_inf`` of a fused optimizer, whether weights and optimizer state do; so the device never waits. The host
    reads losses and norms every ``read_every`` steps and raises then. An optimizer that is not fused cannot be told
    on the device: every step is read before it is taken, which costs nothing on a CPU.

    fp16 is an exception: its scaler skips steps whose gradient overflowed and halves its scale, as it should; only a
    loss that is not finite is bad then.

    Args:
        network: whose buffers a bad step must not change.
        optimizer: of all parameters.
        clip_grad: largest norm of the gradient; None leaves it as it is.
        read_every: by default 1 on a CPU, else ``READ_EVERY``.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        clip_grad: float | None = None,
        read_every: int | None = None,
    ) -> None:
        self.optimizer, self.scaler, self.clip_grad = optimizer, scaler, clip_grad
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        device = self.parameters[0].device
        self.skips_on_device = all(group.get("fused") for group in optimizer.param_groups) and device.type != "mps"
        wanted = read_every or (1 if device.type == "cpu" else READ_EVERY)
        self.read_every = wanted if self.skips_on_device else 1
        self.buffers = _by_dtype(list(network.buffers()))
        self.kept: list[Tensor] = []
        self.failed = torch.zeros((), dtype=torch.bool, device=device)
        self.unread: list[Tensor] = []
        self.losses: list[float] = []

    def begin(self) -> None:
        """Clear the gradient and remember the running statistics; call it before each forward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        self.kept = [_flat(buffers) for buffers in self.buffers]

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Take the optimizer's step unless it, or one before, is bad.

        Args:
            loss: the loss of the step, a scalar that is the same in every process.
        Raises:
            NonFiniteLoss: when a reading meets a bad step.
        """
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters, self.clip_grad)
        finite = torch.isfinite(norm)
        self.failed |= ~torch.isfinite(loss) if self.scaler.is_enabled() else ~(torch.isfinite(loss) & finite)
        self._restore_buffers()
        self.unread.append(torch.stack([loss, norm.to(loss.dtype)]))
        if len(self.unread) >= self.read_every:
            self.read()
        if self.skips_on_device:
            self.optimizer.found_inf = (self.failed | ~finite).float()
            self.optimizer.step()
            del self.optimizer.found_inf
        else:
            self.scaler.step(self.optimizer)
        self.scaler.update()

    def _restore_buffers(self) -> None:
        """After a bad step, put back what ``begin`` remembered."""
        for buffers, kept in zip(self.buffers, self.kept, strict=True):
            values = torch.where(self.failed, kept, _flat(buffers)).split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [value.view_as(old) for value, old in zip(values, buffers, strict=True)])

    def read(self) -> None:
        """Wait for the device and fetch the losses since the last reading.

        Raises:
            NonFiniteLoss: naming the first bad step, counted from 1.
        """
        if not self.unread:
            return
        for loss, norm in torch.stack(self.unread).tolist():
            if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(norm)):
                raise NonFiniteLoss(
                    f"step {len(self.losses) + 1} of the epoch: the loss is {loss}, the norm of its gradient {norm}; "
                    "the weights were not changed. Try a lower --lr, --precision fp32, "
                    '--optimizer "NAME(clip_grad=1)", or look for '
                    "broken images."
                )
            self.losses.append(loss)
        self.unread.clear()


def gradient_norm(parameters: list[nn.Parameter], clip_grad: float | None) -> Tensor:
    """The norm of the gradient before it is clipped to ``clip_grad`` (None leaves it as it is)."""
    if clip_grad is not None:
        return nn.utils.clip_grad_norm_(parameters, clip_grad)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def _by_dtype(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors in groups of one type each."""
    return [[tensor for tensor in tensors if tensor.dtype == dtype] for dtype in {tensor.dtype for tensor in tensors}]


def _flat(tensors: list[Tensor]) -> Tensor:
    """A copy of all values in one row."""
    return torch.cat([tensor.ravel() for tensor in tensors])
