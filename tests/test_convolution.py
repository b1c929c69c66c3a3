"""Convolutions against torch's own in double precision, on the way that trains and the other."""

import pytest
import torch
from torch import Tensor, nn

from dmf.convolution import Conv2d, ConvTranspose2d

GEOMETRIES = {
    "down": (Conv2d, nn.Conv2d, {"kernel_size": 3, "padding": 1}),
    "head": (Conv2d, nn.Conv2d, {"kernel_size": 1}),
    "strided": (Conv2d, nn.Conv2d, {"kernel_size": 5, "stride": 2, "padding": 1}),
    "up": (
        ConvTranspose2d,
        nn.ConvTranspose2d,
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    ),
    "up, odd": (ConvTranspose2d, nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
}


def gradients(module: nn.Module, images: Tensor, seed: Tensor) -> list[Tensor]:
    """Return the output and the gradients of input, weight and bias."""
    images = images.clone().requires_grad_()
    out = module(images)
    out.backward(seed)
    assert images.grad is not None
    return [out.detach(), images.grad, *(weight.grad for weight in module.parameters())]


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_output_and_gradients_are_torchs(
    name: str, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, options = GEOMETRIES[name]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    generator = torch.Generator().manual_seed(0)
    layer = ours(4, 6, **options).to(memory_format=torch.channels_last)
    exact = theirs(4, 6, **options).double()
    exact.load_state_dict(layer.state_dict())
    images = torch.randn(3, 4, 10, 13, generator=generator).to(memory_format=torch.channels_last)
    seed = torch.randn(exact(images.double()).shape, generator=generator)

    found = gradients(layer, images, seed)
    for one, other in zip(found, gradients(exact, images.double(), seed.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)
    # The optimiser walks weight and gradient side by side.
    assert found[2].stride() == layer.weight.stride()


def test_the_first_layer_needs_no_gradient_of_the_images() -> None:
    layer = Conv2d(1, 2, 3, padding=1)
    layer(torch.rand(2, 1, 8, 8)).sum().backward()
    assert layer.weight.grad is not None
