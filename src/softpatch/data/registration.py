"""Where a part lies on an image, beside a reference image: by how much it is turned and shifted.

Images are compared as small greys without their mean, under a round window. The reference is turned to every angle, and
how well an image matches at all shifts is one correlation by Fourier transforms.

A *pose* is a matrix (2, 3) that leads from places on the reference to places on the image, (x, y, 1) in half sides from
the middle, as `torch.nn.functional.affine_grid` takes it.
"""

import base64
from functools import lru_cache
from math import pi

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from softpatch.config import REFERENCE_SIDE, unpacked_reference

_FINE, _COARSE = 0.5, 3.0  # degrees between the angles that are tried, at last and at first
_FARTHEST = 0.25  # of the side, that a part may be shifted
_LEAST_MATCH = 0.5  # below it, an image is left as it is
_FADING = 0.15  # of the window's radius
AS_IT_LIES = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""The pose of an image that is not moved."""


def small_greys(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as greys (B, S, S)."""
    size = (REFERENCE_SIDE, REFERENCE_SIDE)
    return F.interpolate(images.mean(dim=1, keepdim=True), size=size, mode="bilinear", antialias=True)[:, 0]


def packed_reference(grey: Tensor) -> str:
    """The grey (S, S) of a reference image, as `Settings.align` takes it."""
    return base64.b64encode(grey.mul(255).round().byte().numpy().tobytes()).decode()


def find_poses(greys: Tensor, reference: str, aspect: float) -> tuple[Tensor, Tensor]:
    """How images lie beside a reference, from their greys (B, S, S): poses (B, 2, 3), and how well they match, (B,).

    A match is at most 1; where it is low the image is taken as it lies. `aspect` is the width of the original images
    over their height, by which a turned part is squeezed.
    """
    spectra = _turned_spectra(reference, round(aspect, 2))
    every, steps = round(_COARSE / _FINE), len(spectra)
    poses, matches = [], []
    for grey in _windowed(greys):
        image, norm = torch.fft.rfft2(grey), float(grey.norm().clamp_min(1e-9))
        first = torch.arange(0, steps, every)
        near = first[_peaks(image, spectra[first]).amax(dim=1).argmax()] + torch.arange(1 - every, every)
        correlations = _peaks(image, spectra[near % steps])
        number, place = divmod(int(correlations.argmax()), REFERENCE_SIDE**2)
        shift = _shift(correlations[number].view(REFERENCE_SIDE, REFERENCE_SIDE), place)
        match = float(correlations[number, place] / norm)
        pose = torch.cat([_turning(-_FINE * near[number : number + 1], aspect)[0], shift[:, None]], dim=1)
        poses.append(pose if match >= _LEAST_MATCH else AS_IT_LIES)
        matches.append(match)
    return torch.stack(poses), torch.tensor(matches)


def moved(images: Tensor, poses: Tensor, *, beyond: str = "reflection") -> Tensor:
    """Images (B, C, H, W) as they are seen through poses, bilinear: the part lies as it does on the reference.

    Beyond an image lies its reflection, or 0 with "zeros".
    """
    grid = F.affine_grid(poses, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def inverted(poses: Tensor) -> Tensor:
    """Poses (B, 2, 3) that lead back: from the image to the reference."""
    back = torch.linalg.inv(poses[:, :, :2])
    return torch.cat([back, -back @ poses[:, :, 2:]], dim=2)


def _peaks(image: Tensor, spectra: Tensor) -> Tensor:
    """Correlations of an image's spectrum with those of A turned references, at every allowed shift: (A, S·S)."""
    correlation: Tensor = torch.fft.irfft2(image * spectra, s=(REFERENCE_SIDE, REFERENCE_SIDE))
    return correlation.masked_fill(_too_far(), -1).flatten(1)


def _shift(correlation: Tensor, place: int) -> Tensor:
    """The shift (2,), x and y in half sides, at a place of a correlation (S, S), refined by a parabola on each axis."""
    y, x = divmod(place, REFERENCE_SIDE)
    lines = ((x, correlation[y]), (y, correlation[:, x]))
    return torch.tensor([2 * (_signed(at) + _vertex(line, at)) / REFERENCE_SIDE for at, line in lines])


def _signed(place: int) -> int:
    return place - REFERENCE_SIDE if place > REFERENCE_SIDE // 2 else place


def _vertex(line: Tensor, at: int) -> float:
    """How far from its highest place the parabola through a line and its neighbours is highest, at most a half."""
    before, here, after = (float(line[(at + step) % REFERENCE_SIDE]) for step in (-1, 0, 1))
    curve = before - 2 * here + after
    return 0.0 if min(before, after) <= -1 or curve > -1e-12 else max(-0.5, min(0.5, 0.5 * (before - after) / curve))


@lru_cache(4)
def _turned_spectra(reference: str, aspect: float) -> Tensor:
    """Conjugate spectra of the reference at every angle, of unit norm: (angles, S, S // 2 + 1)."""
    pixels = torch.frombuffer(bytearray(unpacked_reference(reference)), dtype=torch.uint8)
    grey = pixels.view(1, 1, REFERENCE_SIDE, REFERENCE_SIDE).float() / 255
    turnings = _turning(torch.arange(0, 360, _FINE), aspect)
    poses = torch.cat([turnings, torch.zeros(len(turnings), 2, 1)], dim=2)
    turned = _windowed(moved(grey.expand(len(poses), -1, -1, -1), poses)[:, 0])
    spectra: Tensor = torch.fft.rfft2(turned / turned.norm(dim=(1, 2), keepdim=True).clamp_min(1e-9))
    return spectra.conj()


def _turning(degrees: Tensor, aspect: float) -> Tensor:
    """Matrices (A, 2, 2) that turn by so many degrees in the original, whose half sides are not alike."""
    angle = degrees * (pi / 180)
    cosine, sine = angle.cos(), angle.sin()
    rows = torch.stack([cosine, -sine / aspect], dim=1), torch.stack([sine * aspect, cosine], dim=1)
    return torch.stack(rows, dim=1)


def _windowed(greys: Tensor) -> Tensor:
    window = _window()
    mean = (greys * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
    return (greys - mean) * window


@lru_cache(1)
def _window() -> Tensor:
    """A disc that fades out towards the border, (S, S)."""
    axis = (torch.arange(REFERENCE_SIDE) + 0.5) * (2 / REFERENCE_SIDE) - 1
    return ((1 - torch.hypot(axis[:, None], axis)) / _FADING).clamp(0, 1)


@lru_cache(1)
def _too_far() -> Tensor:
    place = torch.arange(REFERENCE_SIDE)
    far = torch.minimum(place, REFERENCE_SIDE - place) > _FARTHEST * REFERENCE_SIDE
    return far[:, None] | far
