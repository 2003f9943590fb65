"""Networks that others trained: files under `$GRAPHREP_CHECKPOINTS` and the modules they fit.

The classes are written anew from the shapes and descriptions in that folder's
index.md; layers bear the names of the files. Known accuracies are the index's.
Those of the CNNs come out exactly on the first 2,000 test images of the JPEG
copy of CIFAR-10, so that is where they were measured, though the index says
"true test images"; on true pixels they can only be compared within chance.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphrep.checkpoint import Checkpoint, read_checkpoint
from graphrep.zoo.images import raw_test_images

CHECKPOINTS = os.environ.get("GRAPHREP_CHECKPOINTS", "")
DATA = os.environ.get("GRAPHREP_DATA", "")


@dataclass(frozen=True)
class Known:
    """A known accuracy, and the images at hand to compare it on."""

    accuracy: float
    images: str  # of `real_images`
    num_images: int | None = None  # it was measured on; None: on these very images

    def tolerance(self, num_images: int) -> float:
        """Three standard deviations between two samples of images, else one image."""
        if self.num_images is None:
            return 1.01 / num_images
        variance = self.accuracy * (1 - self.accuracy)
        return 3 * (variance * (1 / num_images + 1 / self.num_images)) ** 0.5


@dataclass(frozen=True)
class RealCase:
    """A file, the module it fits, what the module takes, and what is known of it."""

    file: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one input
    hidden: tuple[int, ...]  # sizes of the groups that can be permuted, in execution order
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    known: tuple[Known, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.file).stem

    def checkpoint(self) -> Checkpoint:
        return read_checkpoint(Path(CHECKPOINTS) / self.file)

    def module(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The network as its file has it, in evaluation mode."""
        module = self.build()
        module.load_state_dict(self.checkpoint().state_dict, strict=True)
        return module.to(dtype).eval()

    def example(self, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(2, *self.shape, generator=generator, dtype=torch.float64).to(dtype)

    def inputs(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Bytes [N, C, H, W] as the network takes them: cropped, scaled to 0..1, standardised."""
        pixels = images[..., : self.shape[1], : self.shape[2]].to(dtype) / 255
        mean, std = (torch.tensor(v, dtype=dtype).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std


def feed_forward(*widths: int) -> nn.Sequential:
    """Flatten, then linear layers with ReLU between: keys 1, 3, 5 ..."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional(*convolutions: tuple[int, int, int, int], flat: int) -> nn.Sequential:
    """Convolutions (inner, outer, kernel, stride), then two linear layers, ReLU between."""
    layers: list[nn.Module] = []
    for inner, outer, kernel, stride in convolutions:
        layers += [nn.Conv2d(inner, outer, kernel, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn_a() -> nn.Module:
    return convolutional((3, 16, 4, 2), (16, 32, 4, 2), flat=2048)


def cnn_base() -> nn.Module:
    return convolutional((3, 8, 4, 2), (8, 16, 4, 2), flat=1024)


def cnn_deep() -> nn.Module:
    return convolutional((3, 8, 4, 2), (8, 8, 3, 1), (8, 8, 3, 1), (8, 8, 4, 2), flat=512)


class PlainBlock(nn.Module):
    """A residual block without batch norm, with a 1x1 convolution where shapes change."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet2b(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(PlainBlock(8, 16, 2), PlainBlock(16, 16, 1))
        self.linear1 = nn.Linear(1024, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(F.relu(self.conv1(x)))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


class PaddedBlock(nn.Module):
    """A residual block whose shortcut has no parameters: it subsamples and pads with zeros."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.grows = outer > inner
        self.conv1 = nn.Conv2d(inner, outer, 3, 2 if self.grows else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grows:
            quarter = y.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(y + x)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(PaddedBlock(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(PaddedBlock(16, 32), *(PaddedBlock(32, 32) for _ in "ab"))
        self.layer3 = nn.Sequential(PaddedBlock(32, 64), *(PaddedBlock(64, 64) for _ in "ab"))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[2:]).flatten(1))


class PNet(nn.Module):
    """First stage of MTCNN: convolutions only, so any input from 12x12."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)


class RNet(nn.Module):
    """Second stage of MTCNN: width before height before channels when it flattens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).contiguous()
        x = self.prelu4(self.dense4(x.view(x.shape[0], -1)))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)


def _cifar_cnn(
    file: str,
    build: Callable[[], nn.Module],
    hidden: tuple[int, ...],
    accuracy: float,
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.225, 0.225, 0.225),
) -> RealCase:
    known = (Known(accuracy, "cifar10_jpeg"), Known(accuracy, "cifar10_test1k", 2000))
    return RealCase(f"crown/{file}", build, (3, 32, 32), hidden, mean, std, known)


def _cnn_a(name: str, accuracy: float) -> RealCase:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return _cifar_cnn(f"sdp__cifar_cnn_a_{name}.model", cnn_a, (16, 32, 100), accuracy, mean, std)


CNN_A = (
    _cnn_a("adv", 0.6935),
    _cnn_a("adv4", 0.5885),
    _cnn_a("adv_alt", 0.7100),
    _cnn_a("mix", 0.7560),
    _cnn_a("mix4", 0.7095),
    _cifar_cnn("oval__cifar_wide.pth", cnn_a, (16, 32, 100), 0.6075),
)

CASES = (
    *CNN_A,
    _cifar_cnn("oval__cifar_base.pth", cnn_base, (8, 16, 100), 0.5825),
    _cifar_cnn("oval__cifar_deep.pth", cnn_deep, (8, 8, 8, 8, 100), 0.5515),
    RealCase(
        "crown/cifar10_resnet__resnet2b.pth",
        ResNet2b,
        (3, 32, 32),
        (8, 16, 16, 16, 100),
        (0.4914, 0.4822, 0.4465),
        (0.2471, 0.2435, 0.2616),
        (Known(0.6925, "cifar10_test1k", 10000),),  # `test_acc` in the file, of the whole test set
    ),
    RealCase(
        "crown/eran__mnist_6_100_nat.pth",
        lambda: feed_forward(784, 100, 100, 100, 100, 100, 10),
        (1, 28, 28),
        (100, 100, 100, 100, 100),
        known=(Known(0.9490, "mnist"),),
    ),
    RealCase(
        "resnet_cifar/resnet20-12fca82f.th",
        ResNet20,
        (3, 32, 32),
        # Streams grow: 16 channels run through all stages, joined by 16 and then 32 that start
        # as padding; between them lie the insides of the nine blocks.
        (16, 16, 16, 16, 32, 16, 32, 32, 64, 32, 64, 64),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        (Known(0.814, "cifar10_jpeg"), Known(0.9173, "cifar10_test1k", 10000)),
    ),
    RealCase("mtcnn/pnet.pt", PNet, (3, 20, 20), (10, 16, 32), (0.5,), (0.5,)),
    RealCase("mtcnn/rnet.pt", RNet, (3, 24, 24), (28, 48, 64, 128), (0.5,), (0.5,)),
)


@cache
def real_images(name: str) -> tuple[Tensor, Tensor]:
    """Test images [N, C, H, W] in bytes and labels [N].

    `cifar10_jpeg` and `mnist`: the first 2,000 in the published order;
    `cifar10_test1k`: the 1,000 with true pixels.
    """
    if name == "cifar10_jpeg":
        return _first_jpeg_images(Path(DATA) / "cifar10_jpeg.npz", 2000)
    images, labels = raw_test_images(name)
    return images[:2000], labels[:2000]


def _first_jpeg_images(path: Path, num: int) -> tuple[Tensor, Tensor]:
    """Decoded here, as the library would decode all 60,000, or prefer true pixels."""
    from PIL import Image

    with np.load(path) as arrays:
        content, offsets = arrays["jpeg_test"].tobytes(), arrays["offset_test"][: num + 1]
        labels = arrays["y_test"][:num].astype(np.int64)
    decoded = [Image.open(io.BytesIO(content[a:b])).convert("RGB") for a, b in pairwise(offsets)]
    images = np.stack([np.asarray(image) for image in decoded])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
