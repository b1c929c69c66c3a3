"""Convolutions whose weight gradient is a matrix product, where that is the faster way.

On a CPU with AVX2 alone the library takes longer for the weight gradient of a channels-last
convolution than copying its windows out and multiplying does (`benchmarks/training.py`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Conv2d(nn.Conv2d):
    """nn.Conv2d with square kernel, stride and padding, zero-padded, without groups.

    `bias_stays_zero` says that nothing will ever be added: cuDNN adds a bias in a kernel of its
    own, a pass over the whole output.
    """

    bias_stays_zero = False

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        return _convolve(self, input, (0, 0), transposed=False)


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d with square kernel, stride and padding, without groups.

    `bias_stays_zero` as in `Conv2d`.
    """

    bias_stays_zero = False

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        if output_size is not None:
            return super().forward(input, output_size)
        return _convolve(self, input, self.output_padding, transposed=True)


def _as_matrix_product(input: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


def _convolve(
    module: Conv2d | ConvTranspose2d,
    input: Tensor,
    output_padding: Any,
    transposed: bool,
) -> Tensor:
    bias = None if module.bias_stays_zero else module.bias
    geometry = (module.stride, module.padding, (1, 1), transposed, output_padding, 1)
    if not _as_matrix_product(input):
        padding: Any = module.padding
        # The functional forms, not torch.convolution: autocast knows only them.
        if transposed:
            return nn.functional.conv_transpose2d(
                input, module.weight, bias, module.stride, padding, output_padding
            )
        return nn.functional.conv2d(input, module.weight, bias, module.stride, padding)
    out: Tensor = _Convolution.apply(input, module.weight, bias, geometry)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        return torch.convolution(input, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding, _, transposed, _, _ = ctx.geometry
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, input, weight, None, *ctx.geometry, [True, False, False]
            )[0]
        coarse, fine = (input, gradient) if transposed else (gradient, input)
        of_weight = _weight_gradient(coarse, fine, weight.shape[-1], stride[0], padding[0])
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_input, of_weight, of_bias, None


def _weight_gradient(
    coarse: Tensor, fine: Tensor, kernel: int, stride: int, padding: int
) -> Tensor:
    """Sum over all places of coarse (N, A, h, w) times its window of fine (N, B, H, W).

    Returns (A, B, kernel, kernel). It goes image by image, so that the windows stay in the cache.
    """
    height, width = coarse.shape[2:]
    channels, fine_height, fine_width = fine.shape[1:]
    padded = fine.new_zeros(
        max(padding + fine_height, (height - 1) * stride + kernel),
        max(padding + fine_width, (width - 1) * stride + kernel),
        channels,
    )
    inside = padded[padding : padding + fine_height, padding : padding + fine_width]
    windows = padded.unfold(0, kernel, stride)[:height].unfold(1, kernel, stride)[:, :width]
    windows = windows.permute(0, 1, 3, 4, 2)
    total = coarse.new_zeros(coarse.shape[1], kernel * kernel * channels)
    for places, image in zip(coarse.permute(0, 2, 3, 1), fine.permute(0, 2, 3, 1), strict=True):
        inside.copy_(image)
        total.addmm_(places.flatten(0, 1).t(), windows.reshape(height * width, -1))
    return total.view(-1, kernel, kernel, channels).permute(0, 3, 1, 2)
