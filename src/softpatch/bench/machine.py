"""What a row says about where it was measured, and the memory that a task took."""

import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine() -> dict[str, Any]:
    """The processor, its cores that may be used, the GPU if there is one, and the versions that matter."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": _processor(),
        "cores": allowed,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "softpatch_version": version("softpatch"),
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
    }


def forget_peak() -> None:
    """Begin to measure peak memory anew, where the system can (Linux)."""
    with suppress(OSError):
        _RESET.write_text("5")


def peak_memory() -> int | None:
    """The most memory this process has held since `forget_peak`, in bytes; since its start where it cannot forget."""
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
