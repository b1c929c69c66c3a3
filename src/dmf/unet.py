"""The paper's "basic U-Net", as its notebook builds it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmf.convolution import Conv2d, ConvTranspose2d


class UNet(nn.Module):
    """A U-Net of one convolution per level.

    Down: 3x3 convolution, batch norm, ReLU, 2x2 max-pool, once per entry of ``filters``.
    Up: 3x3 transposed convolution of stride 2, batch norm, ReLU, concatenation with the skip
    (left out without ``skip_connections``).
    A 1x1 convolution gives the logits. With the default filters it has 1,754,338 parameters, the
    number the notebook's Keras model reports as trainable.

    Weights are Glorot-uniform and biases zero; batch norm has epsilon 1e-3 and ``momentum`` counted
    as in Keras, the share of the running statistics that is kept.

    Args:
        filters: filters of the down blocks, outermost first.
        in_channels: channels of the images, 1 for ultrasound.
        classes: number of classes C of the logits.
        momentum: batch-norm momentum in (0, 1), Keras' convention.
        skip_connections: whether the down blocks' features reach the up blocks.
        generator: source of the initial weights (CPU); torch's default generator if None.
    """

    def __init__(
        self,
        filters: Sequence[int] = (32, 64, 128, 256),
        *,
        in_channels: int = 1,
        classes: int = 2,
        momentum: float = 0.99,
        skip_connections: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.skip_connections = skip_connections
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList()
        channels = in_channels
        for width in filters:
            self.down.append(_block(Conv2d(channels, width, 3, padding=1), momentum))
            channels = width
        self.up = nn.ModuleList()
        for width in reversed(filters):
            upsample = ConvTranspose2d(channels, width, 3, stride=2, padding=1, output_padding=1)
            self.up.append(_block(upsample, momentum))
            channels = 2 * width if skip_connections else width
        self.head = Conv2d(channels, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, classes, H, W).

        H and W must be multiples of 2 to the number of levels; raises ValueError otherwise.
        """
        multiple = 2 ** len(self.down)
        if images.shape[-2] % multiple or images.shape[-1] % multiple:
            raise ValueError(
                f"image sides {tuple(images.shape[-2:])} must be multiples of {multiple}"
            )
        skips = []
        features = images
        for block in self.down:
            features = block(features)
            skips.append(features)
            features = self.pool(features)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            features = block(features)
            if self.skip_connections:
                features = torch.cat([features, skip], dim=1)
        logits: Tensor = self.head(features)
        return logits


def _block(convolution: Conv2d | ConvTranspose2d, momentum: float) -> nn.Sequential:
    # Batch norm takes any constant away again, so the gradient of the bias is zero. What rounding
    # leaves of it Adam would blow up to full steps, too fast for the running means to follow.
    assert convolution.bias is not None
    convolution.bias.requires_grad_(False)
    convolution.bias_stays_zero = True
    norm = nn.BatchNorm2d(convolution.out_channels, eps=1e-3, momentum=1 - momentum)
    return nn.Sequential(convolution, norm, nn.ReLU(inplace=True))
