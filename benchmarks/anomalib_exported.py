"""Export anomalib's PatchCore, in an environment of its own: `python anomalib_exported.py PATCHES FOLDER`.

It has a ResNet-18 and so many patches of 384 numbers, both drawn at random: a graph takes as long whatever they are.
Beside the graph for ONNX Runtime lies that for OpenVINO; the paths of both are the last two lines of the output.
"""

import sys
from pathlib import Path

import anomalib_reference  # noqa: F401  where torchvision's compiled operators do not load it goes on without
import torch
from anomalib.models import Patchcore

SIDE = 256


def main() -> None:
    """Export and say where to."""
    patches, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    model = Patchcore(backbone="resnet18", pre_trained=False, evaluator=False, visualizer=False)
    model.model.memory_bank = torch.randn(patches, 384).abs()
    model.eval()
    paths = [export(folder, input_size=(SIDE, SIDE)) for export in (model.to_onnx, model.to_openvino)]
    for path in paths:
        print(path)


if __name__ == "__main__":
    main()
