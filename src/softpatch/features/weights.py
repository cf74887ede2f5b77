"""Find, read and identify the weights of a backbone.

Torch files are read with `weights_only=True`; `offline` never downloads."""

import hashlib
import logging
import warnings
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from softpatch.data.paths import check_weights_file
from softpatch.errors import WeightsError, is_out_of_memory
from softpatch.progress import Progress, silent

_HUB_FILE = "model.safetensors"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file with `weights_only=True`.

    A torch file may hold the state dict itself or have it under "state_dict" or "model". Raises `WeightsError`
    where the file does not exist or is neither.
    """
    check_weights_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_compressed(path)
        with warnings.catch_warnings(action="ignore"):  # it remarks on old kinds of files, which are refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights file {path} cannot be read ({error}); fetch it again") from error
    except WeightsError:
        raise
    except Exception as error:  # torch.load raises many types, unpickling refusals among them
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"weights file {path} is neither safetensors nor a torch file of plain tensors; convert it first"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(_is_plain(value) for value in loaded.values()):
        raise WeightsError(f"weights file {path} holds no state dict of plain tensors; save `model.state_dict()`")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _refuse_compressed(path: Path) -> None:
    """Refuse a torch file that holds more than its size says: torch compresses nothing."""
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        if sum(each.file_size for each in archive.infolist()) > path.stat().st_size:
            raise WeightsError(f"weights file {path} is compressed, which torch does not do; save `model.state_dict()`")


def _is_plain(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_quantized or value.is_nested or value.is_complex())


def hub_file(backbone: str, hub_id: str | None, *, offline: bool, progress: Progress = silent) -> Path:
    """Find the pretrained weights of `backbone` in the Hugging Face hub's local cache, or fetch them from the hub.

    Offline, only the cache is looked at. Raises `WeightsError` that says both ways out where neither has them.
    """
    if hub_id is None:
        raise WeightsError(f"no pretrained weights of backbone {backbone!r} are known; give a file as `weights`")
    from huggingface_hub import hf_hub_download

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns at every retry; our sentence says it once
    missing: Exception | None = None
    try:
        for only_local in (True,) if offline else (True, False):
            if not only_local:
                progress("fetching weights", 0, 1)
            try:
                return Path(hf_hub_download(hub_id, _HUB_FILE, local_files_only=only_local))
            except Exception as error:  # the hub raises many types, those of its network library among them
                missing = error
    finally:
        logger.setLevel(level)
    tried = "are not in the local cache (and `offline` forbids the network)" if offline else "cannot be fetched"
    raise WeightsError(
        f"the pretrained weights of backbone {backbone!r} {tried}: connect to the internet once, "
        "or give a file as `weights` (or 'random' to go without)"
    ) from missing


def weights_digest(state: dict[str, Tensor]) -> str:
    """Identify weights by content: SHA-256, as hex, over the names, dtypes, shapes and bytes in sorted order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
