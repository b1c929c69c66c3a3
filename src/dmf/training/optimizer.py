"""Adam and SGD, with all state in tensors that keep their place.

torch's functional forms, not its classes: the constructors of those import the compiler, which
takes a second of every training's start (`docs/benchmarks/startup.md`). A captured CUDA graph knows
tensors by address, and a state is saved and put back by name.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from dmf.settings import Training


class Optimizer:
    """Updates the named weights that are trained.

    Args:
        weights: by name; those that need no gradient are left alone.
        training: kind, momentum, weight decay and Adam's epsilon.
        device: of the weights.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], training: Training, device: torch.device
    ) -> None:
        trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
        self._training = training
        self._weights: list[Tensor] = list(trained.values())
        # A captured graph reads the rate from the device, unless it never changes.
        self._on_device = device.type == "cuda" and training.schedule.kind != "constant"
        self._rate: float | Tensor = training.learning_rate
        if self._on_device:
            self._rate = torch.full((), training.learning_rate, device=device)

        def zeros() -> list[Tensor]:
            return [
                torch.zeros_like(weight, memory_format=torch.preserve_format)
                for weight in self._weights
            ]

        self._moments: dict[str, list[Tensor]]
        if training.optimizer == "adam":
            steps = [torch.zeros((), device=device) for _ in self._weights]
            self._moments = {"step": steps, "exp_avg": zeros(), "exp_avg_sq": zeros()}
        else:
            # Zeros, so that the first step is no special case: 0 times the momentum adds nothing.
            self._moments = {"momentum_buffer": zeros()}
        self._names = list(trained)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step; never waits for the device."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights from their gradients."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        training, moments = self._training, self._moments
        if training.optimizer == "adam":
            adam(
                self._weights,
                gradients,
                moments["exp_avg"],
                moments["exp_avg_sq"],
                [],
                moments["step"],
                fused=True,
                capturable=self._weights[0].is_cuda,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._rate,
                weight_decay=0,
                eps=training.adam_epsilon,
                maximize=False,
            )
        else:
            sgd(
                self._weights,
                gradients,
                [*moments["momentum_buffer"]],
                fused=True,
                weight_decay=training.weight_decay,
                momentum=training.momentum,
                lr=self._rate,  # type: ignore[arg-type]  # the fused form takes a tensor
                dampening=0,
                nesterov=False,
                maximize=False,
            )

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the state by name: where it lives, not a copy."""
        for index, name in enumerate(self._names):
            for key, tensors in self._moments.items():
                yield f"{name}.{key}", tensors[index]
