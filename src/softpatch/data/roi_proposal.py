"""A proposal for a region of interest: what of the images is the part, and what the ground that it lies on.

Ground is what the border of the images looks like, by colour and texture. It is a proposal, to be looked at: where a
part reaches the border, or looks like the ground, it is wrong.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from softpatch.config import ROI_SIDE
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, readable, some_of
from softpatch.errors import InputError

_SAMPLE = 32  # images
_BORDER = 6  # pixels of 256
_KINDS, _PIXELS = 3, 20_000  # of ground, and of it that are looked at
_SMOOTHED, _TEXTURE = 1.5, 4.0  # pixels, of the Gaussians for colour and for texture
_OFTEN = 0.05  # of the images show the part at a place that is looked at: two of the sample
_ROOM = 5  # pixels around it
_LEAST, _MOST = 0.02, 0.95  # of the image, that a part may take


def propose_roi(refs: Sequence[ImageRef]) -> NDArray[np.bool_]:
    """Where a sample of images shows the part: bool (256, 256), stretched over the images.

    Images that cannot be read are passed over. Raises `InputError` where none can be, and where what differs from the
    border is next to nothing or nearly all.
    """
    from scipy.ndimage import binary_dilation, binary_fill_holes, binary_opening  # a third of a second's import
    from sklearn.cluster import KMeans  # a second's

    framing = Framing.square(ROI_SIDE, ROI_SIDE)
    seen = [_described(framing.apply(image).permute(1, 2, 0).numpy()) for image in readable(some_of(refs, _SAMPLE))]
    if not seen:
        raise InputError("none of the images that were tried can be read, so no region of interest can be proposed")
    described = np.stack(seen)  # (n, 256, 256, 4)
    border = np.ones((ROI_SIDE, ROI_SIDE), np.bool_)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    ground = described[:, border].reshape(-1, described.shape[3])
    spread = ground.std(axis=0) + 0.01
    some = ground[:: max(1, len(ground) // _PIXELS)] / spread
    kinds = KMeans(_KINDS, n_init=3, random_state=0).fit(some)  # type: ignore[no-untyped-call]
    apart = np.stack([kinds.transform(each.reshape(-1, each.shape[2]) / spread).min(axis=1) for each in described])
    level = _otsu(np.log1p(apart))
    often = (np.log1p(apart) > level).mean(axis=0).reshape(ROI_SIDE, ROI_SIDE) >= _OFTEN
    part = binary_fill_holes(binary_opening(often, iterations=2))
    found: NDArray[np.bool_] = binary_dilation(part, iterations=_ROOM) if part.any() else part
    if not _LEAST <= found.mean() <= _MOST:
        raise InputError(
            f"what differs from the border takes {found.mean():.0%} of the images, so no part can be told from the "
            "ground; paint a mask of what is to be looked at"
        )
    return found


def _described(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour and texture of an image (256, 256, 3) at each pixel: (256, 256, 4)."""
    from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

    colour = gaussian_filter(image, (_SMOOTHED, _SMOOTHED, 0))
    texture = gaussian_filter(gaussian_gradient_magnitude(image.mean(axis=2), 1.0), _TEXTURE)
    return np.dstack([colour, 4 * texture]).astype(np.float32)


def _otsu(values: NDArray[np.floating]) -> float:
    """The value that divides values into two groups that are least spread."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nan_to_num(between).argmax())])
