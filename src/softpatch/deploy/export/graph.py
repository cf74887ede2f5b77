"""A fitted detector as one network: from pixels to the four outputs that anomalib's models have, too.

All that `Detector.predict` computes lies inside: resizing, framing, the region of interest, normalisation, the
backbone, patch embeddings, the search in the memory bank and the anomaly map. It is written in operations that every
runtime has, whose shapes depend on the number and the size of the images alone.
"""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor, nn

from softpatch.data.framing import GREY, Framing
from softpatch.deploy.export.embedding import embedding_of
from softpatch.detector import Detector
from softpatch.errors import InputError
from softpatch.memory.bank import MemoryBank
from softpatch.patch_detector import PatchDetector, raised
from softpatch.scoring.anomaly_map import upsample_and_smooth

OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
_Nearest = tuple[Tensor, Tensor | None]
_ALIKE, _SAME = 8, 0.001  # patches whose radii differ by so little are bounded together
_DISTANCES = 2**19  # of an image that are held at once: 2 MB, which stay in a cache
_FEWEST = 256  # patches of a block, however large images are: a graph of a thousand blocks takes minutes to make


class ExportedDetector(nn.Module):
    """Images (N, H, W, 3) become scores (N,), labels (N,), anomaly maps (N, h, w) and masks (N, h, w): `OUTPUTS`.

    Images are RGB of any size, one size in a batch: uint8, or float32 where the detector has a `value_range`. A label
    says that the score exceeds `threshold`, a mask where the map of such an image exceeds `map_threshold`, both
    scalars; the patch that made the score belongs to it too.
    """

    rows: Tensor
    columns: Tensor
    inside: Tensor | None
    looked_at: Tensor | None
    nearest_inside: Tensor | None

    def __init__(self, detector: Detector, *, single: bool = False) -> None:
        """Keep the bank in half precision, as it is, or in `single`, ready for the search."""
        super().__init__()
        check_can_export(detector)
        settings, framing = detector.settings, Framing.of(detector.settings)
        self.framing, self.grid = framing, detector.grid
        self.is_deep = settings.value_range is not None
        self.black, self.white = settings.value_range or (0.0, 255.0)
        positions = prod(detector.grid)
        self.embedding = embedding_of(detector)
        self.search = Search(detector.banks, positions, single=single)
        sigma = settings.smoothing_sigma / framing.step
        rows, columns = (
            upsample_and_smooth(cells, size, sigma)
            for cells, size in zip(detector.grid, framing.map_shape, strict=True)
        )
        constants: dict[str, Tensor | None] = {"rows": rows, "columns": columns}
        constants |= dict.fromkeys(("inside", "looked_at", "nearest_inside"))
        if framing.inside is not None and framing.looked_at is not None:
            constants["inside"], constants["looked_at"] = map(torch.from_numpy, (framing.inside, framing.looked_at))
            constants["nearest_inside"] = torch.tensor(
                [framing.nearest_inside(position, detector.grid) for position in range(positions)]
            )
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, image: Tensor, threshold: Tensor, map_threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        for_image, for_map = self.search(self.embedding(self.framed(image)))
        score, peak = for_image.max(dim=1)
        if self.nearest_inside is not None:
            peak = self.nearest_inside[peak]
        anomaly_map = self.rows @ for_map.view(-1, *self.grid) @ self.columns.T
        if self.inside is not None:
            anomaly_map = torch.where(self.inside, anomaly_map, 0.0)
        label = ~(score <= threshold)  # so that NaN, of a pixel that is none, does not pass
        mask = (anomaly_map > map_threshold) | self._patch(peak)
        return score, label, anomaly_map, mask & label[:, None, None]

    def framed(self, image: Tensor) -> Tensor:
        """Images as the network sees them, (N, 3, h, w) in [0, 1]; see `Framing.apply`."""
        pixels = image.float()
        if self.is_deep:
            pixels = pixels.clamp(self.black, self.white)
        count, height, width, colours = pixels.shape
        (columns, rows), (left, top), (across, down) = self.framing.size, self.framing.margin, self.framing.crop
        of_rows = resizing(height, rows)[top : top + down]
        of_columns = resizing(width, columns)[left : left + across]
        lines = (of_rows @ pixels.flatten(2)).view(count, down, width, colours)
        seen = lines.permute(0, 3, 1, 2) @ of_columns.T
        seen = ((seen - self.black) / (self.white - self.black)).clamp(0, 1)
        return seen if self.looked_at is None else torch.where(self.looked_at, seen, GREY)

    def _patch(self, peak: Tensor) -> Tensor:
        """The pixels of maps (N, h, w) that lie in the patches at positions (N,)."""
        (rows, columns), (height, width) = self.grid, self.framing.map_shape
        of_row = torch.div(torch.arange(height) * rows, height, rounding_mode="floor")
        of_column = torch.div(torch.arange(width) * columns, width, rounding_mode="floor")
        here: Tensor = (of_row[:, None] * columns + of_column) == peak[:, None, None]
        return here


class Search(nn.Module):
    """Patch embeddings (N, P, D) become patch scores (N, P) for the image score and for the anomaly map.

    See `PatchDetector.score`.
    """

    def __init__(self, banks: PatchDetector, positions: int, *, single: bool = False) -> None:
        super().__init__()
        first, second = banks.classification, banks.segmentation
        if second.patches is first.patches:
            searches = [BankSearch(first, [first.radii, second.radii], positions, single=single)]
        else:
            searches = [BankSearch(bank, [bank.radii], positions, single=single) for bank in (first, second)]
        self.searches = nn.ModuleList(searches)
        self.known_bad = None
        if banks.known_bad is not None:
            ones = torch.ones(len(banks.known_bad))
            bad = MemoryBank(banks.known_bad, weights=ones, owners=ones.long(), radii=0 * ones)
            self.known_bad = BankSearch(bad, [bad.radii], positions, single=single)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        queries, shape = embeddings.flatten(0, 1), embeddings.shape[:2]
        for_image, for_map = (score.view(shape) for search in self.searches for score in search(queries))
        if self.known_bad is not None:
            near = self.known_bad(queries)[0].view(shape)
            for_image, for_map = raised(for_image, near), raised(for_map, near)
        return for_image, for_map


class BankSearch(nn.Module):
    """Queries (Q, D) become their scores (Q,) against one bank, under each of several support radii (M,).

    All distances are computed, a block of the bank at a time, by |q - b|² = |q|² - 2 q·b + |b|², about the bank's mean,
    so that little is lost to rounding.
    """

    mean: Tensor

    def __init__(self, bank: MemoryBank, radii: Sequence[Tensor], positions: int, *, single: bool = False) -> None:
        super().__init__()
        self.kinds = len(radii)
        mean = bank.patches.double().mean(dim=0)
        centred = bank.patches.double() - mean
        kept = centred.float() if single else bank.patches
        self.register_buffer("mean", mean.float())
        under, weights = torch.stack(list(radii)), bank.weights
        varies = bool((weights != weights[0]).any())
        self.weight = 1.0 if varies else float(weights[0])
        at_once = max(_FEWEST, _DISTANCES // positions)
        blocks = []
        for members, level in _alike(under, 1 if varies else _ALIKE):
            for some in torch.split(torch.arange(members.shape[1]), max(1, at_once // len(members))):
                places = members[:, some].flatten()
                varying = weights[places] if varies else None
                limits = None if level is None else level[:, some].square()
                blocks.append(_Block(kept[places], centred[places], varying, limits, len(members)))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, queries: Tensor) -> list[Tensor]:
        queries = queries - self.mean
        norms = queries.square().sum(dim=1, keepdim=True)
        doubled = -2 * queries
        nearest: list[_Nearest] = []
        for block in self.blocks:
            found = block(doubled, norms, self.mean, self.kinds)
            nearest = [_nearer(*each) for each in zip(nearest, found, strict=True)] if nearest else found
        return [
            (squares + norms[:, 0]).clamp_min(0).sqrt() * (self.weight if weights is None else weights)
            for squares, weights in nearest
        ]


class _Block(nn.Module):
    """Patches (m·C, D) of a bank, kept as columns, with their soft weights (m·C,), if those differ.

    They are centred where they are float32. Every C-th patch, m of them, has the same squared support radius, of
    `radii` (kinds, C); None where there is none.
    """

    patches: Tensor
    norms: Tensor
    weights: Tensor | None
    radii: Tensor | None

    def __init__(
        self, patches: Tensor, centred: Tensor, weights: Tensor | None, radii: Tensor | None, alike: int
    ) -> None:
        super().__init__()
        self.alike = alike
        norms = centred.square().sum(dim=1).float()
        for name, value in {
            "patches": patches.T.contiguous(),
            "norms": norms,
            "weights": weights,
            "radii": radii,
        }.items():
            self.register_buffer(name, value)

    def forward(self, doubled: Tensor, norms: Tensor, mean: Tensor, kinds: int) -> list[_Nearest]:
        """The nearest of the block for queries (Q, D), -2 q being given: squares less |q|², and weights."""
        is_centred = self.patches.dtype == torch.float32
        centred = self.patches if is_centred else self.patches.float() - mean[:, None]
        squares = torch.addmm(self.norms, doubled, centred)
        if self.radii is None:
            return [_least(squares, self.weights)] * kinds
        if self.alike > 1:
            squares = squares.view(-1, self.alike, self.radii.shape[1]).amin(dim=1)
        return [_least(torch.maximum(squares, radii - norms), self.weights) for radii in self.radii]


def _alike(radii: Tensor, most: int) -> list[tuple[Tensor, Tensor | None]]:
    """Patches by their support radii (kinds, M): places (m, C) of those alike, and the radii (kinds, C) of each column.

    First come those without any, then columns of `most` whose radii differ by `_SAME` at most, then single ones.
    """
    highest = radii.amax(dim=0)
    free = (highest == 0).nonzero()[:, 0]
    columns, single = [], [((radii != 0) & (radii != highest)).any(dim=0).nonzero()[:, 0]]
    for pattern in product((True, False), repeat=len(radii)):
        kinds = torch.tensor(pattern)[:, None]
        places = ((radii == highest * kinds) & (highest > 0)).all(dim=0).nonzero()[:, 0]
        places = places[highest[places].argsort()]
        whole = places[: len(places) // most * most].view(-1, most)
        same = highest[whole[:, -1]] <= highest[whole[:, 0]] * (1 + _SAME)
        columns.append(whole[same])
        single += [whole[~same].flatten(), places[whole.numel() :]]
    several, alone = torch.cat(columns).T, torch.cat(single)[None]
    found: list[tuple[Tensor, Tensor | None]] = [(free[None], None)]
    found += [(several, radii[:, several].mean(dim=1)), (alone, radii[:, alone[0]])]
    return [each for each in found if each[0].numel()]


def _least(squares: Tensor, weights: Tensor | None) -> _Nearest:
    """The least of each row of squares (Q, m), and the weight (Q,) of the patch that it is of."""
    if weights is None:
        return squares.amin(dim=1), None
    least, at = squares.min(dim=1)
    return least, weights[at]


def _nearer(one: _Nearest, other: _Nearest) -> _Nearest:
    """The lesser squares (Q,) of both, with their weights."""
    (squares, weights), (others, other_weights) = one, other
    if weights is None or other_weights is None:
        return torch.minimum(squares, others), None
    return torch.minimum(squares, others), torch.where(others < squares, other_weights, weights)


def resizing(before: int, after: int) -> Tensor:
    """The matrix (after, before) that resizes an axis as torch's antialiased bilinear interpolation does.

    `before` may be symbolic: a graph computes the matrix from the size of its images.
    """
    places = torch.arange(before) + 0.5
    scale = (places[-1] + 0.5) / after  # a tensor, since no arithmetic with a symbolic number gets into a graph
    centres = (torch.arange(after) + 0.5) * scale
    weights = (1 - (places - centres[:, None]).abs() / scale.clamp_min(1)).clamp_min(0)
    return weights / weights.sum(dim=1, keepdim=True)


def check_can_export(detector: Detector) -> None:
    """Raise `InputError` for what a graph cannot hold, alignment, and for a detector on a GPU."""
    if detector.settings.align != "none":
        raise InputError("a model that aligns images cannot be exported; fit one without `align`")
    if detector.backbone.device.type != "cpu":
        raise InputError(f"a detector on {detector.backbone.device} cannot be exported; load it with `device` cpu")
