"""Small torch modules of kinds that transformers does not have, and a perceptron of scikit-learn."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

CLASSES = 8


class GroupedBlock(nn.Module):
    """A residual block of ResNeXt: 1×1, grouped 3×3, 1×1."""

    def __init__(self, width: int, groups: int) -> None:
        """Makes the layers; input and output have `width` channels."""
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, height, width of image] → the same shape."""
        return torch.relu(x + self.layers(x))


class ResNeXt(nn.Module):
    """A classifier of images by grouped convolutions."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(GroupedBlock(32, 4), GroupedBlock(32, 8))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3, height, width] → [batch, classes]."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class UNet(nn.Module):
    """Two levels down and up again: once by a transposed convolution, once by resizing; both join what came down."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.bottom = nn.Conv2d(32, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.resize = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.third, self.fourth = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(48, 16, 3, padding=1)
        self.head = nn.Conv2d(16, CLASSES, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3, height, width] → [batch, classes, height, width]."""
        first = torch.relu(self.first(x))
        second = torch.relu(self.second(self.pool(first)))
        bottom = torch.relu(self.bottom(self.pool(second)))
        third = torch.relu(self.third(torch.cat((self.up(bottom), second), 1)))
        return self.head(torch.relu(self.fourth(torch.cat((self.resize(third), first), 1))))


class Recurrent(nn.Module):
    """Two layers of an LSTM, and a linear layer on what it ends with."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        self.lstm = nn.LSTM(24, 48, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, 24] → [batch, classes]."""
        return self.head(self.lstm(x)[0][:, -1])


class WeightNormed(nn.Module):
    """Convolutions along time, whose weights are a direction and a magnitude."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        self.layers = nn.Sequential(
            *(weight_norm(nn.Conv1d(16, 32, 3, padding=1)), nn.LeakyReLU(0.1)),
            *(weight_norm(nn.Conv1d(32, 32, 3, padding=2, dilation=2)), nn.LeakyReLU(0.1)),
            weight_norm(nn.ConvTranspose1d(32, 16, 4, stride=2, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 16, length] → [batch, 16, 2·length]."""
        return self.layers(x)


class Detector(nn.Module):
    """A convolutional head of boxes and scores for each place; `append_selection` selects among them."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1)),
            *(nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU()),
        )
        self.boxes, self.classes = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 3, height, width] → boxes [batch, places, 4] and scores [batch, 3, places]."""
        found = self.body(x)
        return self.boxes(found).flatten(2).transpose(1, 2), self.classes(found).flatten(2).sigmoid()


def append_selection(path: Path) -> None:
    """Appends NonMaxSuppression to an exported detector, whose outputs are then selected boxes and their places."""
    model = onnx.load(path)
    graph = model.graph
    boxes, scores = (value.name for value in graph.output)
    numbers = {"most": np.array([10]), "start": np.array([2]), "end": np.array([3]), "last": np.array([1])}
    limits = {"overlap": np.array([0.3], np.float32), "least": np.array([0.5], np.float32)}
    graph.initializer.extend(
        numpy_helper.from_array(array, f"nms_{name}") for name, array in (numbers | limits).items()
    )
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 4]), "nms_flat"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "nms_list"))
    graph.node.extend(
        (
            helper.make_node(
                "NonMaxSuppression", [boxes, scores, "nms_most", "nms_overlap", "nms_least"], ["kept"], "select"
            ),
            helper.make_node("Slice", ["kept", "nms_start", "nms_end", "nms_last"], ["column"], "take_column"),
            helper.make_node("Reshape", ["column", "nms_list"], ["places"], "list_places"),
            helper.make_node("Reshape", [boxes, "nms_flat"], ["all_boxes"], "list_boxes"),
            helper.make_node("Gather", ["all_boxes", "places"], ["selected"], "take_boxes"),
        )
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("selected", TensorProto.FLOAT, ["count", 4]))
    graph.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, ["count", 3]))
    onnx.checker.check_model(model)
    onnx.save(model, path)
