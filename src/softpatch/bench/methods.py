"""The methods that the benchmark compares, by name.

Those of the PatchCore family are presets with some settings of their own; the others are competitors, each in a module
of its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

BUDGETS = ("paper", "small")
"""Of training, for the methods that train a network."""
ASKED = ("page", "random")
"""In what order a person is asked about training images: as the page of an audit asks, or at random."""
_DISCRIMINATORS = ("nearest", "gaussian", "lof")


@dataclass(frozen=True)
class Method:
    """A method: the preset and the settings that it begins with, and how it is run.

    `run` is "patches" for the PatchCore family, "images" where whole images are dropped before PatchCore is fitted, or
    a competitor's name. With `clean_training` it learns from the good images alone, whatever the protocol.
    """

    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    run: str = "patches"
    clean_training: bool = False


def _fusions() -> dict[str, Method]:
    chosen = [names for count in (2, 3) for names in combinations(_DISCRIMINATORS, count)]
    return {
        f"fusion-{'-'.join(names)}": Method("softpatch+", {"discriminators": names})
        for names in chosen
        if names != ("gaussian", "lof")  # that is softpatch+
    }


METHODS: dict[str, Method] = {
    "padim": Method("patchcore", run="padim"),
    "cflow": Method("patchcore", run="cflow"),
    "igd": Method("patchcore", run="igd"),
    "musc": Method("patchcore", run="musc"),
    "meds": Method("patchcore", run="meds"),
    "patchcore": Method("patchcore"),
    "upper-bound": Method("patchcore", clean_training=True),
    **{
        f"softpatch-{name}": Method("softpatch", {"discriminators": (name,), "weight_discriminator": name})
        for name in _DISCRIMINATORS
    },
    "agreement": Method("agreement"),
    "softpatch+": Method("softpatch+"),
    "softpatch+symmetries": Method("softpatch+", {"symmetries": "find"}),
    "softpatch+paper": Method("softpatch+", {"discard_rule": "fixed", "weight_rule": "literal"}),
    **_fusions(),
    **{
        f"image-denoising-{name}": Method(
            "softpatch", {"discriminators": (name,), "weight_discriminator": name}, run="images"
        )
        for name in _DISCRIMINATORS
    },
}
"""In the order of the paper's tables, what came after it behind its competitors."""
