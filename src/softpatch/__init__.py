"""Visual anomaly detection that learns from an unlabelled, contaminated folder of product images.

>>> from softpatch import SoftPatch                     # doctest: +SKIP
>>> detector = SoftPatch().fit("images/")               # doctest: +SKIP
>>> detector.predict("new.png").is_anomalous            # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Drift",
    "ExportError",
    "ImageError",
    "InputError",
    "ModelFileError",
    "Prediction",
    "Region",
    "Settings",
    "SoftPatch",
    "SoftPatchError",
    "WeightsError",
    "__version__",
]

if TYPE_CHECKING:
    from softpatch.config import Settings
    from softpatch.errors import ExportError, ImageError, InputError, ModelFileError, SoftPatchError, WeightsError
    from softpatch.estimator import SoftPatch
    from softpatch.results import Prediction
    from softpatch.scoring.drift import Drift
    from softpatch.scoring.regions import Region

_HOMES = {
    "Drift": "softpatch.scoring.drift",
    "ExportError": "softpatch.errors",
    "ImageError": "softpatch.errors",
    "InputError": "softpatch.errors",
    "ModelFileError": "softpatch.errors",
    "Prediction": "softpatch.results",
    "Region": "softpatch.scoring.regions",
    "Settings": "softpatch.config",
    "SoftPatch": "softpatch.estimator",
    "SoftPatchError": "softpatch.errors",
    "WeightsError": "softpatch.errors",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # torch takes a second to import; `softpatch --help` should not wait for it
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'softpatch' has no attribute {name!r}")
