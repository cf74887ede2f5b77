"""Training images become patch embeddings, in as many passes as bounded memory needs.

The first pass keeps what is small: projected embeddings, in which noise is judged and the coreset chosen. Where that
is not all there is to know, a second pass looks at the images again and keeps the full embeddings of the few patches
that were chosen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, prod
from pathlib import Path

import torch
from torch import Tensor

from softpatch.alignment import find_alignment
from softpatch.config import ALIGNMENTS, Runtime, Settings
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, SkippedImage, as_asked, pixel_digests, read_in_batches, readable, some_of
from softpatch.data.registration import AS_IT_LIES, find_poses, moved, small_greys
from softpatch.data.roi import packed_roi
from softpatch.errors import ImageError
from softpatch.features.backbone import Backbone
from softpatch.features.tiles import embedding_shape, image_embeddings
from softpatch.memory.evidence import USUAL_GRID
from softpatch.memory.projection import project
from softpatch.memory_budget import embedding_store, fit_memory, images_at_once
from softpatch.progress import Progress
from softpatch.symmetry import MOST_IMAGES, NONE, SAMPLE, Symmetry, find_symmetries, transform, turned_positions
from softpatch.training_record import TrainingRecord

_FEWEST = 8  # images that are looked at to see whether to align them


@dataclass(frozen=True, eq=False)
class Batch:
    """Images (B, 3, h, w) as the network sees them, of which originals, of what (width, height), and the poses
    (B, 2, 3) that they are seen through, if they are aligned."""

    refs: list[ImageRef]
    sizes: list[tuple[int, int]]
    images: Tensor
    poses: Tensor | None

    def only(self, numbers: list[int]) -> "Batch":
        """Some of the images, by their numbers, which rise."""
        if len(numbers) == len(self.refs):
            return self
        poses = None if self.poses is None else self.poses[numbers]
        return Batch([self.refs[n] for n in numbers], [self.sizes[n] for n in numbers], self.images[numbers], poses)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the first pass found: the N images that could be read, each with the digest of what was seen of it and its
    (width, height), `projected` embeddings (N·G, P, d) float16 of the copies that the G `symmetries` make of each, the
    image itself first, the patch grid (H, W), the size D of the full embeddings, and the `poses` (N, 2, 3) that images
    were seen through, if they are aligned."""

    refs: list[ImageRef]
    digests: list[bytes]
    sizes: list[tuple[int, int]]
    projected: Tensor
    symmetries: tuple[Symmetry, ...]
    grid: tuple[int, int]
    dim: int
    poses: Tensor | None

    @property
    def is_whole(self) -> bool:
        """Whether `projected` are the full embeddings, since they are small."""
        return self.projected.shape[2] == self.dim

    @property
    def matching_nowhere(self) -> list[str]:
        """The names of the images that could not be aligned."""
        if self.poses is None:
            return []
        return [ref.name for ref, pose in zip(self.refs, self.poses, strict=True) if torch.equal(pose, AS_IT_LIES)]

    @property
    def places(self) -> Tensor:
        """Which positions of an image those of its copies show: int64 (G, P)."""
        return turned_positions(self.symmetries, self.grid)


def first_pass(
    refs: Sequence[ImageRef],
    backbone: Backbone,
    settings: Settings,
    runtime: Runtime,
    folder: Path,
    *,
    known: TrainingRecord | None = None,
    on_skip: Callable[[SkippedImage], None] | None,
    on_images: Callable[[Tensor], None] = lambda _: None,
    progress: Progress,
) -> Seen:
    """Look at every image; one that cannot be read goes to `on_skip`, or raises `ImageError` without it.

    Of images that are equal as they are seen the first is used, and the others go to `on_skip` if there is one: a copy
    would vouch for what it shows, and hide from its left-out score. So do copies of images that are `known`, since they
    were learned from before; then the symmetries are theirs, and not looked for. What is used goes to `on_images`,
    batch by batch, as it is seen (B, 3, h, w).

    What does not fit in the memory budget is kept in `folder`. Raises `InputError`, before more than a sample is read,
    where even that is not enough.
    """
    grid, dim = embedding_shape(backbone, settings)
    weights = sum(weight.numel() * weight.element_size() for weight in backbone.network.parameters())
    symmetries = known.symmetries if known else product_symmetries(refs, backbone, settings, runtime, prod(grid))
    before = dict(zip(known.digests, known.paths, strict=True)) if known else {}
    copies = len(symmetries)
    need = fit_memory(len(refs) * copies, prod(grid), dim, settings, weights)
    projected = embedding_store(need, runtime.memory_budget, folder, backbone.device)
    usable: dict[bytes, ImageRef] = {}
    poses, sizes = [], []
    for batch in _distinct(refs, settings, runtime, before, usable, on_skip):
        on_images(batch.images)
        sizes.extend(batch.sizes)
        poses.append(batch.poses)
        start = (len(usable) - len(batch.refs)) * copies
        embeddings = _embeddings_of_copies(batch.images, symmetries, backbone, settings)
        projected[start : len(usable) * copies] = project(embeddings, settings.projected_dim, settings.seed)
        progress("patch embeddings", len(usable), len(refs))
    progress("patch embeddings", len(refs), len(refs))
    aligned = [each for each in poses if each is not None]
    return Seen(
        list(usable.values()),
        list(usable),
        sizes,
        projected[: len(usable) * copies],
        symmetries,
        grid,
        dim,
        torch.cat(aligned) if aligned else None,
    )


def product_symmetries(
    refs: Sequence[ImageRef], backbone: Backbone, settings: Settings, runtime: Runtime, positions: int
) -> tuple[Symmetry, ...]:
    """The product's symmetries, as a sample of the training images shows them where `settings` ask for it.

    Where images have more `positions` than usual, each counts as more images. Unreadable images are passed over: they
    are told of when all are read.
    """
    count = ceil(len(refs) * max(1, positions / USUAL_GRID))
    if settings.symmetries == "none" or 2 * count > MOST_IMAGES:
        return NONE
    images = [batch.images for batch in _distinct(some_of(refs, SAMPLE), settings, runtime, {}, {}, lambda _: None)]
    if not images:
        return NONE

    return find_symmetries(torch.cat(images), partial(_projected, backbone, settings, runtime), count)


def _projected(backbone: Backbone, settings: Settings, runtime: Runtime, images: Tensor) -> Tensor:
    """Projected embeddings (n, P, d) float16 of a sample of images (n, 3, h, w)."""
    parts = torch.split(images, images_at_once(settings, runtime))
    embeddings = torch.cat([image_embeddings(part, backbone, settings) for part in parts])
    return project(embeddings, settings.projected_dim, settings.seed)


def product_alignment(
    refs: Sequence[ImageRef],
    backbone: Backbone,
    settings: Settings,
    runtime: Runtime,
    *,
    on_note: Callable[[str], None] | None,
) -> Settings:
    """The settings with what a sample of the training images says of `align`; that goes to `on_note`, too.

    What of aligned images is looked at is what nearly all of them show: of parts that lie anyhow, a disc.
    """
    framing = Framing.of(settings)
    fewer = max(_FEWEST, SAMPLE * images_at_once(settings, runtime) // runtime.batch_size)  # of large images
    sample = list(readable(as_asked(some_of(refs, min(SAMPLE, fewer)), settings)))
    if len(sample) < 3:
        return replace(settings, align="none")

    def embed(images: Tensor, mask: Tensor) -> Tensor:
        looking = replace(framing, roi=packed_roi(mask.numpy()))
        return _projected(backbone, settings, runtime, looking.cropped(images))

    aspects = [image.shape[2] / image.shape[1] for image in sample]
    alignment = find_alignment(torch.stack([framing.resized(image) for image in sample]), aspects, embed)
    if on_note:
        on_note(
            f"images are {1 - alignment.nearer:.0%} nearer to each other once they are aligned, "
            + ("and are from now on" if alignment.helps else "which is too little, so they are not")
        )
    if not alignment.helps:
        return replace(settings, align="none")
    roi = None if alignment.seen.all() else packed_roi(alignment.seen.numpy())
    return replace(settings, align=alignment.reference, roi=roi)


def full_embeddings(
    seen: Seen, needed: Tensor, backbone: Backbone, settings: Settings, runtime: Runtime, *, progress: Progress
) -> Tensor:
    """Embeddings (n, D) float16 of the patches `needed` (n,), int64 indices into all N·G·P that rise.

    Where projecting lost nothing they are at hand; else the images are looked at a second time.
    """
    positions, done = seen.projected.shape[1], 0
    if seen.is_whole:
        return seen.projected.flatten(0, 1)[needed]
    found = torch.empty(len(needed), seen.dim, dtype=torch.float16, device=needed.device)
    of_image = positions * len(seen.symmetries)
    for batch in read_framed(seen.refs, settings, runtime, None):
        for ref, before, now in zip(batch.refs, seen.digests[done:], pixel_digests(batch.images), strict=False):
            if before != now:
                raise ImageError(
                    f"{ref.name} was changed while it was learned from; leave images alone until fit is done"
                )
        embeddings = _embeddings_of_copies(batch.images, seen.symmetries, backbone, settings)
        bounds = torch.tensor([done, done + len(batch.refs)]) * of_image
        first, after = torch.searchsorted(needed, bounds.to(needed.device)).tolist()
        chosen = (needed[first:after] - done * of_image).to(embeddings.device)
        found[first:after] = embeddings.flatten(0, 1)[chosen]
        done += len(batch.refs)
        progress("patches of the bank", done, len(seen.refs))
    return found


def embeddings_of_images(
    refs: Sequence[ImageRef], backbone: Backbone, settings: Settings, runtime: Runtime
) -> Iterator[Tensor]:
    """Patch embeddings (B, P, D) float16 of images, a batch after the other."""
    for batch in read_framed(refs, settings, runtime, None):
        yield image_embeddings(batch.images, backbone, settings)


def digested_embeddings(
    refs: Sequence[ImageRef], backbone: Backbone, settings: Settings, runtime: Runtime
) -> Iterator[tuple[list[bytes], Tensor]]:
    """The same with the digests of the images' prepared pixels; unreadable images are passed over."""
    for batch in read_framed(refs, settings, runtime, lambda _: None):
        yield pixel_digests(batch.images), image_embeddings(batch.images, backbone, settings)


def read_framed(
    refs: Sequence[ImageRef],
    settings: Settings,
    runtime: Runtime,
    on_skip: Callable[[SkippedImage], None] | None,
) -> Iterator[Batch]:
    """Images as `settings` have them seen, in batches of fewer where they are large; see `read_in_batches`."""
    framing = Framing.of(settings)
    is_aligned = settings.align not in ALIGNMENTS
    reading = read_in_batches(
        as_asked(refs, settings),
        framing.resized if is_aligned else framing.apply,
        batch_size=images_at_once(settings, runtime),
        workers=runtime.workers,
        on_skip=on_skip,
    )
    for batch, sizes, images in reading:
        if is_aligned:
            poses = poses_of(images, sizes, settings.align)
            yield Batch(batch, sizes, framing.cropped(moved(images, poses)), poses)
        else:
            yield Batch(batch, sizes, images, None)


def poses_of(images: Tensor, sizes: Sequence[tuple[int, int]], reference: str) -> Tensor:
    """The poses (B, 2, 3) of resized images (B, 3, H, W), by a reference and their original (width, height)."""
    greys = small_greys(images)
    found = [
        find_poses(grey[None], reference, width / height)[0] for grey, (width, height) in zip(greys, sizes, strict=True)
    ]
    return torch.cat(found)


def _distinct(
    refs: Sequence[ImageRef],
    settings: Settings,
    runtime: Runtime,
    before: Mapping[bytes, str],
    seen: dict[bytes, ImageRef],
    on_skip: Callable[[SkippedImage], None] | None,
) -> Iterator[Batch]:
    """Batch by batch, images whose like is not among those `seen`, to which they are added.

    Nor is it among those learned from `before`, by digest and name.
    """
    for batch in read_framed(refs, settings, runtime, on_skip):
        new: dict[bytes, int] = {}
        for number, (ref, digest) in enumerate(zip(batch.refs, pixel_digests(batch.images), strict=True)):
            if digest not in seen and digest not in before:
                seen[digest], new[digest] = ref, number
            elif on_skip:
                original = before.get(digest) or seen[digest].name
                on_skip(SkippedImage(ref.name, f"the same image as {original}", original))
        if new:
            yield batch.only(list(new.values()))


def _embeddings_of_copies(
    images: Tensor, symmetries: tuple[Symmetry, ...], backbone: Backbone, settings: Settings
) -> Tensor:
    """Patch embeddings (B·G, P, D) float16 of the copies that symmetries make of images (B, 3, h, w)."""
    copies = [image_embeddings(transform(images, symmetry), backbone, settings) for symmetry in symmetries]
    return torch.stack(copies, dim=1).flatten(0, 1)
