"""The image classifiers in PyTorch, with the parameter names of their weight files.

They mirror `examples/models/*.hpp`: the same layers, paddings and names, so one safetensors file feeds both sides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class CifarBlock(nn.Module):
    """Residual block of the CIFAR ResNets with the parameter-free shortcut ("option A")."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self._pad = -1 if inputs == outputs and stride == 1 else (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self._pad >= 0:
            shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self._pad, self._pad))
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + shortcut)


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2: depth 6n + 2. `[N, 3, 32, 32]` -> `[N, 10]`."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = CifarBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(CifarBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(functional.avg_pool2d(x, 8), 1))


class SameConv2d(nn.Conv2d):
    """TensorFlow's SAME padding: one more row and column at the end where the total is odd."""

    def forward(self, x: Tensor) -> Tensor:
        down, right = (self._total(int(x.shape[axis + 2]), axis) for axis in (0, 1))
        if down % 2 == 0 and right % 2 == 0:
            padding = (down // 2, right // 2)
            return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        x = functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _total(self, size: int, axis: int) -> int:
        stride = self.stride[axis]
        return max((math.ceil(size / stride) - 1) * stride + self.kernel_size[axis] - size, 0)


class ResNet8(nn.Module):
    """Image classifier of MLPerf Tiny, Keras's layer names. `[N, 3, 32, 32]` of 0..255 -> `[N, 10]`."""

    _CONVOLUTIONS = [(3, 16, 3, 1), (16, 16, 3, 1), (16, 16, 3, 1), (16, 32, 3, 2), (32, 32, 3, 1), (16, 32, 1, 2),
                     (32, 64, 3, 2), (64, 64, 3, 1), (32, 64, 1, 2)]  # fmt: skip
    _NORMS = [16, 16, 16, 32, 32, 64, 64]

    def __init__(self) -> None:
        super().__init__()
        for i, (inputs, outputs, kernel, stride) in enumerate(self._CONVOLUTIONS):
            self.add_module(self._name("conv2d", i), SameConv2d(inputs, outputs, kernel, stride))
        for i, channels in enumerate(self._NORMS):
            self.add_module(self._name("batch_normalization", i), nn.BatchNorm2d(channels, eps=1e-3))
        self.dense = nn.Linear(64, 10)

    @staticmethod
    def _name(layer: str, index: int) -> str:
        return f"{layer}_{index}" if index else layer

    def _conv(self, index: int, x: Tensor) -> Tensor:
        return self.get_submodule(self._name("conv2d", index))(x)

    def _norm(self, index: int, x: Tensor) -> Tensor:
        return self.get_submodule(self._name("batch_normalization", index))(x)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self._norm(0, self._conv(0, x)))
        y = torch.relu(self._norm(1, self._conv(1, x)))
        x = torch.relu(x + self._norm(2, self._conv(2, y)))
        y = torch.relu(self._norm(3, self._conv(3, x)))
        x = torch.relu(self._conv(5, x) + self._norm(4, self._conv(4, y)))
        y = torch.relu(self._norm(5, self._conv(6, x)))
        x = torch.relu(self._conv(8, x) + self._norm(6, self._conv(7, y)))
        return self.dense(torch.flatten(functional.avg_pool2d(x, 8), 1))


class MbConv(nn.Module):
    """Mobile inverted bottleneck without squeeze-excite."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self._residual = stride == 1 and inputs == outputs
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = SameConv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self._residual else y


class EfficientNetLite0(nn.Module):
    """Tan and Le 2019 without squeeze-excite, with ReLU6. `[N, 3, 224, 224]` -> `[N, 1000]`."""

    _STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
               (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList()
        inputs = 32
        for repeats, kernel, stride, expansion, channels in self._STAGES:
            for i in range(repeats):
                self._blocks.append(MbConv(inputs, channels, kernel, 1 if i else stride, expansion))
                inputs = channels
        self._conv_head = SameConv2d(inputs, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Fire(nn.Module):
    """Squeeze 1x1, then 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze1x1(x))
        return torch.cat((torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))), 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 as Caffe computes it. `[N, 3, 227, 227]` -> `[N, 1000]`."""

    _FIRES = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192),
              (384, 64, 256), (512, 64, 256)]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2)
        for i, sizes in enumerate(self._FIRES):
            self.add_module(f"fire{i + 2}", Fire(*sizes))
        self.conv10 = nn.Conv2d(512, 1000, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 3, 2, ceil_mode=True)
        for i in range(2, 10):
            x = self.get_submodule(f"fire{i}")(x)
            if i in (3, 5):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return torch.relu(self.conv10(x)).mean((2, 3))


def conv_bn_relu6(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self._residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [] if expansion == 1 else [conv_bn_relu6(inputs, hidden, 1, 1, 1)]
        layers += [conv_bn_relu6(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, outputs, 1, bias=False)]
        self.conv = nn.Sequential(*layers, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self._residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, width 1, torchvision's names. `[N, 3, 224, 224]` -> `[N, 1000]`."""

    _STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
               (6, 320, 1, 1)]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(3, 32, 3, 2, 1)]
        inputs = 32
        for expansion, channels, blocks, stride in self._STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, channels, 1 if i else stride, expansion))
                inputs = channels
        layers.append(conv_bn_relu6(inputs, 1280, 1, 1, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet50(nn.Module):
    """Torchvision's layout and names. `[N, 3, 224, 224]` -> `[N, 1000]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for stage, (width, blocks, stride) in enumerate([(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)], start=1):
            layers = []
            for i in range(blocks):
                layers.append(Bottleneck(inputs, width, 1 if i else stride))
                inputs = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
