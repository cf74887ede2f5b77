"""Time anomalib's PatchCore, in an environment of its own: `python anomalib_reference.py TRAIN TEST WEIGHTS`.

TRAIN and TEST are text files of one image path per line, WEIGHTS a safetensors file of ResNet-18. The last line of the
output is JSON: seconds to fit with a coreset of 10 %, and seconds per image to predict. Of the coreset the first
500 picks are timed, which are all alike, and the rest is extrapolated.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its compiled operators do not load beside a CPU-only torch, and are not needed
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from anomalib.models.components import KCenterGreedy
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

THREADS, BATCH, PICKS = 2, 16, 500
MEAN, STD = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def read(path: str) -> Tensor:
    """256 px, of which the middle 224: float32 (3, 224, 224)."""
    image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)
    return (pixels / 255 - MEAN) / STD


def run(model: PatchcoreModel, paths: list[str]) -> float:
    """Seconds to read all images and show them to the model, batch by batch."""
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool, torch.inference_mode():
        images = pool.map(read, paths)
        for start in range(0, len(paths), BATCH):
            model(torch.stack([next(images) for _ in paths[start : start + BATCH]]))
    return time.perf_counter() - began


def pick(embeddings: Tensor, count: int) -> tuple[float, Tensor]:
    """Seconds to choose `count` of the embeddings, and what was chosen."""
    began = time.perf_counter()
    chosen = KCenterGreedy(embedding=embeddings, sampling_ratio=(count + 0.5) / len(embeddings)).sample_coreset()
    return time.perf_counter() - began, chosen


def main() -> None:
    """Print the two times."""
    train, test = (Path(each).read_text().splitlines() for each in sys.argv[1:3])
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = PatchcoreModel(["layer2", "layer3"], backbone="resnet18", pre_trained=False)
    state = {name: value.float() for name, value in load_file(sys.argv[3]).items()}
    missing, _ = model.feature_extractor.feature_extractor.load_state_dict(state, strict=False)
    if any(name.startswith(("conv1", "layer1", "layer2", "layer3")) for name in missing):
        raise SystemExit(f"the weights lack {missing[0]}")
    looking = run(model.train().requires_grad_(False), train)
    embeddings = torch.vstack(model.embedding_store)
    few, many = pick(embeddings, PICKS // 10)[0], pick(embeddings, PICKS)[0]
    per_pick, count = (many - few) / (PICKS - PICKS // 10), len(embeddings) // 10
    fit = looking + many + per_pick * (count - PICKS)
    # a bank of the full size takes as long to search whatever is in it
    model.memory_bank = embeddings[torch.randperm(len(embeddings))[:count]]
    model.eval()
    run(model, test[:BATCH])
    predict = median(run(model, test) for _ in range(3)) / len(test)
    print(json.dumps({"fit": fit, "predict": predict, "per_pick": per_pick}))


if __name__ == "__main__":
    main()
