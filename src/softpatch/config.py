"""Every setting of a detector in one frozen record, the presets of the paper, and how a machine runs it.

Nothing here is slow to import, so that what a user gives can be checked before anything that is.
"""

import base64
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from softpatch.errors import InputError

WEIGHT_RULES = ("clipped", "literal", "none")
DISCARD_RULES = ("agreement", "adaptive", "fixed")
RANK_SCOPES = ("position", "image set")
SYMMETRIES = ("none", "find")
DEVICES = ("auto", "cpu", "cuda")
EXPORT_FORMATS = ("onnx", "openvino")
PRECISIONS = ("fp32", "fp16", "int8")
"""Of an exported graph: as in Python, with halved weights, or with 8 bits in the network and the search."""
OverlayStyle = Literal["side-by-side", "plain"]
OVERLAY_STYLES: tuple[OverlayStyle, ...] = ("side-by-side", "plain")
"""The image beside its heat map under a caption, or the heat map over the image alone, at its size."""
Verdict = Literal["good", "check", "anomalous"]
VERDICTS: tuple[Verdict, ...] = ("good", "check", "anomalous")
"""What is said of an image, the worst last."""
LAYOUTS = (
    *("folder", "lookout", "visa", "real-iad", "mvtec-3d", "mvtec-ad-2", "mvtec-loco", "dagm", "kolektor", "btad"),
    *("mvtec", "labelled"),
)
"""Of datasets: the plain folder, then those that are recognised, in the order in which they are tried."""
PROTOCOLS = ("clean", "no-overlap", "overlap", "overlap-distinct")
"""Ways to contaminate training images; see `softpatch.data.contamination`."""
LARGEST = 6e4
"""What a sound feature stays below: embeddings are kept in half precision."""
AUTO = "auto"
"""What `Settings.tile` may be at fit, which then chooses."""
AUTO_TILES = (384, 640)
"""The tiles that it chooses among, in pixels, unless an image is smaller."""
SMALLEST_TILE = 64
SEEN_SIDE = 16
"""Pixels that the smallest defect is to be seen with."""
REFERENCE_SIDE = 64
"""Of the grey image that `Settings.align` holds, in pixels."""
ALIGNMENTS = ("none", "find")
"""What `Settings.align` may be at fit."""
ROI_SIDE = 256
"""Of the bitmap that `Settings.roi` holds, in pixels."""
LARGEST_VALUE = 1e30
"""What a pixel may be, either way, before it is scaled."""
_LARGEST_SCORE = 1e30
PRETRAINED = "pretrained"
RANDOM = "random"
"""What `Settings.weights` may be beside the path of a file."""


@dataclass(frozen=True)
class Settings:
    """All that decides a detector's answers, besides its images; stored whole in the model file.

    Images:
        resize, crop: every image becomes resize x resize pixels, of which the centre crop x crop is looked at, or all
        where crop is None.
        tile, tile_overlap: or images are looked at whole and at their own size, in tiles of tile x tile pixels, of
        which neighbours share about `tile_overlap`; "auto" is 384 to 640, or less for small images. smallest_defect:
        the side, in pixels of the original, of the smallest defect that has to be found: images are made smaller as far
        as 16 pixels are left of it. size: the (width, height) that images are brought to, None for what a fit finds.
        roi: what of an image is looked at, as `softpatch.data.roi` makes it of a mask, None for all; what lies beyond
        is painted grey.
        channels: which one or three of the pages and channels of TIFFs that have several are looked at, from 0 on.
        value_range: the values of black and white in images of more than 8 bits; None has a fit look at the values
        where files do not say it.
        align: with "find", parts that lie turned or shifted are brought to lie as on one of the images, where that is
        found to help; a fit makes of it "none", or the image as `softpatch.data.registration` packs it, and `roi` what
        of it nearly all images show.
        symmetries: with "find", turned and mirrored copies of the images are learned from where the product is found
        to look the same so; with "none" they are not.
    Features:
        backbone: "builtin-v1", which comes with the package, or a timm model's name (the paper's is
        "wide_resnet50_2"). layers: its layers, None for those of stride 8 and 16. weights: "pretrained", a file, or
        "random". embedding_dim: the largest embedding size D.
    Noise (section 3.2 and 3.3 of the paper):
        discriminators: one, or several whose ranks are averaged; none means that nothing is discarded.
        lof_neighbors: LOF-K. gaussian_epsilon: ε of equation (2). projected_dim: size of the random projection
        in which noise scores and the coreset are computed. rank_scope: whether ranks are taken among the patches
        of each grid position ("position") or among those of all ("image set").
    Memory bank:
        discard_fraction: share of the patches with the highest noise scores that is dropped (the paper's τ).
        discard_rule: "fixed" always drops that share, as in the paper; "adaptive" drops twice the share of patches
        that stand out at their position, within a third of `discard_fraction` and the whole of it; "agreement" drops
        none: what is of untrusted images, or of that share, counts as far as other images know it.
        segmentation_discard_fraction: the same for a second bank that draws the anomaly map; None for one bank.
        weight_rule: "clipped" multiplies distances by the noise score of the bank patch, clipped at
        `weight_clip_quantile` of all noise scores; "literal" is the paper's, unclipped; "none" leaves distances.
        weight_discriminator: whose noise score is the soft weight. coreset_ratio: bank size over all patches, and
        max_bank_size: what it is at most.
    Answers:
        smoothing_sigma: of the anomaly map, in pixels of the crop. false_alarm_rate: the share of nominal images
        that the decision threshold calls anomalous. check_share: the share of them that lies below it, but high enough
        to be checked by somebody.
    """

    resize: int = 256
    crop: int | None = 224
    tile: int | str | None = None
    tile_overlap: int = 64
    smallest_defect: float | None = None
    size: tuple[int, ...] | None = None
    roi: str | None = None
    channels: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    align: str = "none"
    symmetries: str = "none"
    backbone: str = "builtin-v1"
    layers: tuple[str, ...] | None = None
    weights: str = PRETRAINED
    embedding_dim: int = 1024
    discriminators: tuple[str, ...] = ("gaussian", "lof")
    lof_neighbors: int = 6
    gaussian_epsilon: float = 0.01
    projected_dim: int = 128
    rank_scope: str = "position"
    discard_rule: str = "adaptive"
    discard_fraction: float = 0.15
    segmentation_discard_fraction: float | None = 0.50
    weight_rule: str = "clipped"
    weight_discriminator: str = "lof"
    weight_clip_quantile: float = 0.85
    coreset_ratio: float = 0.1
    max_bank_size: int = 50_000
    smoothing_sigma: float = 4.0
    false_alarm_rate: float = 0.01
    check_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        one_of("weight_rule", self.weight_rule, WEIGHT_RULES)
        one_of("discard_rule", self.discard_rule, DISCARD_RULES)
        one_of("symmetries", self.symmetries, SYMMETRIES)
        one_of("rank_scope", self.rank_scope, RANK_SCOPES)
        _within("resize", self.resize, 32, 16384)
        _within("crop", self.seen_side, 32, self.resize)
        _check_tiles(self)
        if self.align not in ALIGNMENTS:
            unpacked_reference(self.align)
        if self.align == "find" and self.roi is not None:
            raise InputError("`align` and `roi` do not go together: the region would have to move with the part")
        if self.roi is not None:
            unpacked_roi(self.roi)
        if self.channels is not None and (len(self.channels) not in (1, 3) or not 0 <= min(self.channels) < 64):
            given = ", ".join(map(str, self.channels))
            raise InputError(f"`channels` is {given or 'empty'}; it is one or three numbers from 0 on, such as 0,1,3")
        if self.value_range is not None:
            check_value_range(self.value_range)
        _within("discard_fraction", self.discard_fraction, 0, 0.95)
        if self.segmentation_discard_fraction is not None:
            _within("segmentation_discard_fraction", self.segmentation_discard_fraction, 0, 0.95)
        _within("weight_clip_quantile", self.weight_clip_quantile, 0, 1)
        _within("coreset_ratio", self.coreset_ratio, 1e-5, 1)
        _within("false_alarm_rate", self.false_alarm_rate, 1e-4, 0.5)
        _within("check_share", self.check_share, 0, 0.5)
        if self.smoothing_sigma != 0:  # 0 leaves the map as it is
            _within("smoothing_sigma", self.smoothing_sigma, 0.1, 100)
        _within("gaussian_epsilon", self.gaussian_epsilon, 1e-6, 1e6)
        for name in ("embedding_dim", "lof_neighbors", "projected_dim"):
            _within(name, getattr(self, name), 1, 65536)
        _within("max_bank_size", self.max_bank_size, 1, 10_000_000)
        if not 0 <= self.seed < 2**63:
            raise InputError(f"`seed` is {self.seed}; it is a whole number from 0 to 2**63 - 1")
        if not self.discriminators and (self.discard_fraction or self.segmentation_discard_fraction):
            raise InputError("patches can only be discarded with a discriminator; choose one, or discard 0")

    @property
    def seen_side(self) -> int:
        """Of what is looked at of a resized image, in pixels."""
        return self.resize if self.crop is None else self.crop

    @property
    def network_side(self) -> int:
        """Of the squares that the network is given, in pixels."""
        return self.tile if isinstance(self.tile, int) else self.seen_side

    @property
    def fewest_images(self) -> int:
        """How many training images are needed: each is compared with others, and LOF wants K of them."""
        return self.lof_neighbors + 1 if "lof" in self.noise_names else 3

    @property
    def noise_names(self) -> tuple[str, ...]:
        """The discriminators whose scores are needed, each once: for discarding, then for the soft weights."""
        weighing = () if self.weight_rule == "none" else (self.weight_discriminator,)
        auditing = ("nearest",) if self.discard_rule == "agreement" else ()
        return tuple(dict.fromkeys((*self.discriminators, *weighing, *auditing)))


@dataclass(frozen=True)
class Runtime:
    """How images are read and where the network runs; none of it changes a score beyond float rounding.

    `device` is "auto" (a CUDA GPU where there is one), "cpu" or "cuda"; `batch_size` images go through the network at
    once; `workers` threads read them; with `offline` no network is tried. A fit takes no more memory than about
    `memory_budget`, such as "4GB": what does not fit is kept on disk meanwhile.
    """

    device: str = "auto"
    batch_size: int = 16
    workers: int = 2
    offline: bool = False
    memory_budget: str = "4GB"

    def __post_init__(self) -> None:
        _check_types(self)
        one_of("device", self.device, DEVICES)
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` is {getattr(self, name)}; it must be 1 or more")
        parse_bytes(self.memory_budget)


DEFAULT_PRESET = "agreement"
PRESETS: dict[str, dict[str, Any]] = {
    "agreement": {
        "crop": None,
        "discard_rule": "agreement",
        "discard_fraction": 0.05,
        "segmentation_discard_fraction": 0.3,
        "weight_rule": "none",
        "symmetries": "find",
    },
    "softpatch+": {},
    "softpatch": {"discriminators": ("lof",), "discard_rule": "fixed", "segmentation_discard_fraction": None},
    "patchcore": {
        "discriminators": (),
        "discard_rule": "fixed",
        "discard_fraction": 0.0,
        "segmentation_discard_fraction": None,
        "weight_rule": "none",
    },
}
"""What each named method changes in the default `Settings`, which are SoftPatch+; "agreement" is what users get.

The paper's own SoftPatch+ is `discard_rule="fixed"`, `weight_rule="literal"`.
"""


def preset_settings(preset: str, overrides: dict[str, Any]) -> Settings:
    """Build the settings of a preset, with every override that is not None put on top.

    Raises `InputError` for an unknown preset or setting, or a value out of its range.
    """
    if not isinstance(preset, str):
        raise InputError(f"`preset` is {preset!r}; it must be one of {', '.join(PRESETS)}")
    preset = preset.lower()
    one_of("preset", preset, PRESETS)
    known = {field.name for field in fields(Settings)}
    for name in overrides:
        if name not in known:
            raise InputError(f"setting {name!r} is unknown; choose from {', '.join(sorted(known))}")
    chosen = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in overrides.items()
        if value is not None
    }
    return Settings(**{**PRESETS[preset], **chosen})


def nearest_preset(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The preset from which the fewest settings differ, and those that do."""
    chosen = asdict(settings)
    differing = {}
    for name in PRESETS:
        usual = asdict(preset_settings(name, {}))
        differing[name] = {key: value for key, value in chosen.items() if value != usual[key]}
    nearest = min(differing, key=lambda name: len(differing[name]))
    return nearest, differing[nearest]


def parse_bytes(text: str) -> int:
    """Read "4GB", "800 MB" or "1.5 TB": a number of bytes. Raises `InputError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MGT])i?B?\s*", text, re.IGNORECASE)
    if match is None or len(match[1]) > 12:
        raise InputError(f"`memory_budget` is {text[:40]!r}; it must be like 4GB or 800MB")
    return round(float(match[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[match[2].upper()])


def resolve_weights(weights: str | Path) -> str:
    """What the setting `weights` keeps: "pretrained", "random", or a file's absolute path, found from any folder.

    Raises `InputError` for anything but text or a path.
    """
    if not isinstance(weights, (str, Path)) or not str(weights):
        raise InputError(f"`weights` is {weights!r}; it must be 'pretrained', 'random' or the path of a file")
    return weights if weights in (PRETRAINED, RANDOM) else str(Path(weights).absolute())


def _check_tiles(settings: Settings) -> None:
    tile, overlap = settings.tile, settings.tile_overlap
    if tile is None:
        for name in ("smallest_defect", "size"):
            if getattr(settings, name) is not None:
                raise InputError(f"`{name}` is {getattr(settings, name)}, which is for tiles; give `tile` too, or auto")
        return
    if isinstance(tile, str) and tile != AUTO:
        raise InputError(f"`tile` is {tile!r}; it is a number of pixels, or auto")
    if isinstance(tile, int):
        _within("tile", tile, SMALLEST_TILE, 4096)
    _within("tile_overlap", overlap, 0, (tile if isinstance(tile, int) else AUTO_TILES[0]) // 2)
    if settings.smallest_defect is not None:
        _within("smallest_defect", settings.smallest_defect, 1, 16384)
    if settings.size is not None:
        if len(settings.size) != 2:
            raise InputError(f"`size` is {settings.size}; it is a width and a height in pixels")
        if not isinstance(tile, int):
            raise InputError(
                f"`tile` is {tile} and `size` given, which go together in pixels alone; name the tile's side"
            )
        for side in settings.size:
            _within("size", side, tile, 65500)


def unpacked_roi(roi: str) -> bytes:
    """The bitmap in `Settings.roi`, 8 pixels a byte, row by row. Raises `InputError` for text that holds none."""
    size = ROI_SIDE**2 // 8
    try:
        bitmap = zlib.decompressobj().decompress(base64.b64decode(roi, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise InputError(f"`roi` is {roi[:20]!r}, which `softpatch.data.roi` did not make") from error
    if len(bitmap) != size or not any(bitmap):
        raise InputError(f"`roi` holds no bitmap of {ROI_SIDE} x {ROI_SIDE} pixels with any of them set")
    return bitmap


def unpacked_reference(align: str) -> bytes:
    """The grey pixels in `Settings.align`, row by row. Raises `InputError` for text that holds none."""
    try:
        pixels = base64.b64decode(align, validate=True)
    except ValueError:
        pixels = b""
    if len(pixels) != REFERENCE_SIDE**2:
        raise InputError(f"`align` is {align[:20]!r}; {choose_from(align, ALIGNMENTS)}")
    return pixels


def check_value_range(value_range: tuple[float, ...]) -> None:
    """Raise `InputError` for anything but two numbers, of which the second is larger."""
    if len(value_range) != 2 or not -LARGEST_VALUE <= value_range[0] < value_range[1] <= LARGEST_VALUE:
        given = " ".join(f"{value:g}" for value in value_range)
        raise InputError(f"`value_range` is {given}; it is the value of black, then the larger one of white: 0 4095")


def check_threshold(value: object) -> None:
    """Raise `InputError` for anything but a number of 0 or more that an image score can be compared with."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LARGEST_SCORE:
        raise InputError(f"`threshold` is {repr(value)[:40]}; it must be a number, 0 or more")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise `InputError` for a value of the argument `name` that is none of the choices; it says which there are."""
    if value not in choices:
        raise InputError(f"`{name}` {value!r} is unknown; {choose_from(value, tuple(choices))}")


def choose_from(value: str, choices: Sequence[str]) -> str:
    """The end of a sentence on a value that is none of the choices: which there are, and the most similar."""
    from difflib import get_close_matches

    similar = get_close_matches(value.lower(), choices, n=1, cutoff=0.7) if isinstance(value, str) else []
    return f"choose from {', '.join(choices)}" + (f"; did you mean {similar[0]!r}?" if similar else "")


def _check_types(record: Settings | Runtime) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        if not _is_a(value, field.type):
            expected = getattr(field.type, "__name__", str(field.type)) if isinstance(field.type, type) else field.type
            raise InputError(f"`{field.name}` is {value!r}; it must be {expected}")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type: a plain type, a tuple of one, or a choice of these."""
    if isinstance(kind, UnionType):
        return any(_is_a(value, choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(item, get_args(kind)[0]) for item in value)
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"`{name}` is {value}; it must be within {low:g} and {high:g}")
