"""Photographs of one manufactured product, a turned steel flange, with or without a defect, drawn with numpy.

Lengths are in half image widths from the flange's axis, x to the right and y down.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

RIM, HUB, BORE, HOLE, COUNTERSINK, HOLE_CIRCLE = 0.80, 0.31, 0.16, 0.075, 0.105, 0.55
HOLES = [(HOLE_CIRCLE * np.cos(angle), HOLE_CIRCLE * np.sin(angle)) for angle in np.radians(range(0, 360, 60))]
STEEL, CHIPS, OIL = np.array([[0.95, 0.97, 1.0], [0.92, 0.82, 0.64], [0.60, 0.49, 0.37]])
KINDS = ("scratch", "stain", "dent", "blocked_hole")


@dataclass(frozen=True)
class Defect:
    """A defect of one of `KINDS`: centre (x, y), direction in radians, `extent` and `strength` around 1.

    `shape` seeds the outline.
    """

    kind: str
    x: float
    y: float
    direction: float
    extent: float
    strength: float
    shape: int


@dataclass(frozen=True)
class _Scene:
    """What varies between photographs of sound flanges; every grid is (size, size)."""

    x: Floats
    y: Floats
    radius: Floats
    to_hole: Floats  # distance to the centre of the nearest hole
    marks: Floats  # slope across the turning marks
    mat: Floats
    light: tuple[float, float, float]
    exposure: float


def photograph(
    rng: np.random.Generator, size: int, defect: Defect | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Photograph one flange: an RGB image (size, size, 3) uint8 and its defect mask (size, size) bool.

    `rng` decides the flange, its place under the camera, the light and the sensor noise. With an `rng` in the
    same state the images with and without `defect` are equal wherever the mask is False.
    """
    scene = _set_scene(rng, size)
    image = _render(scene)
    mask = np.zeros((size, size), bool)
    if defect is not None:
        depth = _depth_inside(scene, defect)
        mask = depth > 0
        image = np.where(mask[..., None], _render(scene, defect, depth), image)
    noise = rng.standard_normal(image.shape) * (0.006 + 0.012 * np.sqrt(image))
    return ((image * scene.exposure + noise).clip(0, 1) * 255).round().astype(np.uint8), mask


def _set_scene(rng: np.random.Generator, size: int) -> _Scene:
    shift = rng.uniform(-1.5, 1.5, 2) / 128  # pixels of a 256 px image
    turn = np.radians(rng.uniform(-1, 1))
    axis = (np.arange(size) + 0.5) * (2 / size) - 1
    across, down = axis - shift[0], axis[:, None] - shift[1]
    x = np.cos(turn) * across + np.sin(turn) * down
    y = np.cos(turn) * down - np.sin(turn) * across
    radius = np.hypot(x, y).clip(1e-3)
    to_hole = np.min([np.hypot(x - hole_x, y - hole_y) for hole_x, hole_y in HOLES], axis=0)
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 290)
    mat = (0.085 + 0.057 * grain).clip(0.01)
    light = (-1.7 + rng.normal(0, 0.05), -1.5 + rng.normal(0, 0.05), 2.6)
    marks = _turning_marks(rng, x, y)
    return _Scene(x, y, radius, to_hole, marks, mat, light, 1 + rng.normal(0, 0.025))


def _turning_marks(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    """Draw the radial slope of the tool's fine grooves: rings, each fading in and out along its way round."""
    rings, arcs = 150, 18
    table = rng.standard_normal((rings, 1)) + 0.9 * rng.standard_normal((rings, arcs))
    table = ndimage.gaussian_filter1d(table, 0.6, axis=0) * (0.085 + rng.normal(0, 0.007))
    where = [np.hypot(x, y) * (rings / 1.2), (np.arctan2(y, x) / (2 * np.pi) + 0.5) * arcs]
    marks: Floats = ndimage.map_coordinates(table, where, order=1, mode="grid-wrap")
    return marks


def _ramp(values: Floats, start: float, stop: float) -> Floats:
    return np.clip((values - start) / (stop - start), 0, 1)


def _depth_inside(scene: _Scene, defect: Defect) -> Floats:
    """How deep inside the defect each pixel lies: 0 outside, rising to 1 in the middle."""
    rng = np.random.default_rng(defect.shape)
    right, down = scene.x - defect.x, scene.y - defect.y
    along = right * np.cos(defect.direction) + down * np.sin(defect.direction)
    aside = down * np.cos(defect.direction) - right * np.sin(defect.direction)
    if defect.kind == "scratch":
        aside = aside - rng.uniform(-0.25, 0.25) * along**2 - 0.003 * np.sin(18 * along + rng.uniform(0, 6))
        width = 0.030 * defect.strength * np.sqrt(_ramp(np.abs(along), 0.30 * defect.extent, 0))
        depth = 1 - np.abs(aside) / width.clip(1e-6)
    else:
        radius = {"stain": 0.135, "dent": 0.125, "blocked_hole": HOLE + 0.01}[defect.kind] * defect.extent
        angle = np.arctan2(aside, along)
        for k in (2, 3, 4, 5):
            radius = radius * (1 + rng.normal(0, 0.13 / k) * np.cos(k * angle + rng.uniform(0, 6)))
        depth = 1 - np.hypot(along, aside) / radius
    if defect.kind != "blocked_hole":
        depth = depth * ((scene.radius < RIM) & (scene.to_hole > HOLE))
    clipped: Floats = np.clip(depth, 0, 1)
    return clipped


def _render(scene: _Scene, defect: Defect | None = None, depth: Floats | None = None) -> Floats:
    """Light the flange on its mat: (size, size, 3), about 0 to 1, before exposure and noise."""
    height = _height(scene)
    inside = np.minimum(np.minimum(RIM - scene.radius, scene.radius - BORE), scene.to_hole - HOLE)
    cover = (inside * (len(height) / 2) + 0.5).clip(0, 1)
    colour = STEEL
    if defect is not None and depth is not None:
        height = height + _relief(defect, depth)
        colour = STEEL * _tint(defect, depth[..., None])
        if defect.kind == "blocked_hole":
            cover = np.maximum(cover, _ramp(depth, 0, 0.1))
    image: Floats = (cover * _light_steel(scene, height))[..., None] * colour
    image += ((1 - cover) * _light_mat(scene))[..., None]
    return image


def _height(scene: _Scene) -> Floats:
    """The flange's surface without the turning marks: hub, bevels, sealing groove and countersinks."""
    height = 0.04 * _ramp(scene.radius, HUB, HUB - 0.03) - 0.035 * _ramp(scene.radius, RIM - 0.045, RIM)
    height -= 0.03 * _ramp(scene.radius, BORE + 0.03, BORE) + 0.025 * _ramp(scene.to_hole, COUNTERSINK, HOLE)
    height -= 0.012 * np.exp(-(((scene.radius - 0.70) / 0.011) ** 2))
    smooth: Floats = ndimage.gaussian_filter(height, 0.5)
    return smooth


def _relief(defect: Defect, depth: Floats) -> Floats:
    """What a defect adds to the surface's height: a furrow with burrs, a hollow, a heap of chips."""
    if defect.kind == "scratch":
        return defect.strength * (0.010 * _ramp(depth, 0, 0.4) - 0.026 * _ramp(depth, 0.25, 1))
    if defect.kind == "dent":
        hollow = _ramp(depth, 0, 0.75)
        return -0.032 * defect.strength * hollow**2 * (3 - 2 * hollow)
    if defect.kind == "blocked_hole":
        grain = np.random.default_rng(defect.shape).standard_normal(depth.shape)
        return 0.02 * defect.strength * ndimage.gaussian_filter(grain, len(depth) / 170) * _ramp(depth, 0, 0.3)
    return np.zeros_like(depth)


def _tint(defect: Defect, depth: Floats) -> Floats:
    """What a defect multiplies the steel's colour with, from its depth (size, size, 1)."""
    tint: Floats = np.ones_like(STEEL)
    if defect.kind == "stain":  # dried oil is darkest along its edge
        film = _ramp(depth, 0, 0.15) * (0.55 + 0.45 * np.exp(-(((depth - 0.15) / 0.12) ** 2)))
        tint = (1 - defect.strength * film * (1 - OIL)).clip(0.1, 1)
    elif defect.kind == "blocked_hole":
        tint = 1 - _ramp(depth, 0, 0.2) * (1 - CHIPS)
    elif defect.kind == "scratch":
        tint = 1 - 0.3 * _ramp(depth, 0.3, 0.9)
    return tint


def _light_steel(scene: _Scene, height: Floats) -> Floats:
    """Diffuse light plus a grooved surface's highlight (Ward 1992): wide across the marks, narrow along."""
    slope_y, slope_x = np.gradient(height, 2 / len(height))
    out_x, out_y = scene.x / scene.radius, scene.y / scene.radius
    normal_x, normal_y = -slope_x - scene.marks * out_x, -slope_y - scene.marks * out_y
    steepness = np.sqrt(normal_x**2 + normal_y**2 + 1)
    light_x, light_y, light_z = scene.light[0] - scene.x, scene.light[1] - scene.y, scene.light[2]
    far = np.sqrt(light_x**2 + light_y**2 + light_z**2)
    lambert = (normal_x * light_x + normal_y * light_y + light_z) / (steepness * far)
    half_x, half_y, half_z = light_x / far, light_y / far, light_z / far + 1  # halfway to the camera above
    facing = ((normal_x * half_x + normal_y * half_y + half_z) / steepness).clip(1e-3)
    along = (half_y - half_z * normal_y) * out_x - (half_x - half_z * normal_x) * out_y
    across = (half_x - half_z * normal_x) * out_x + (half_y - half_z * normal_y) * out_y
    glint = np.exp(-((along / facing / 0.24) ** 2) - (across / facing / 0.55) ** 2)
    brightness: Floats = 0.11 + 0.34 * lambert.clip(0) + 0.55 * glint
    return brightness


def _light_mat(scene: _Scene) -> Floats:
    """The rubber mat with the flange's shadow, and the walls of bore and holes that the light reaches."""
    away_x, away_y = -np.array(scene.light[:2]) / np.hypot(*scene.light[:2])
    shadow = _ramp(np.hypot(scene.x - 0.05 * away_x, scene.y - 0.05 * away_y), RIM + 0.07, RIM - 0.02)
    lit = ((scene.x * away_x + scene.y * away_y) / scene.radius).clip(0)
    bore_wall: Floats = 0.30 * lit * _ramp(scene.radius, BORE - 0.05, BORE) * (scene.radius < BORE + 0.02)
    hole_wall = 0.05 * _ramp(scene.to_hole, 0.02, HOLE) * (scene.to_hole < HOLE + 0.02)
    return scene.mat * (1 - 0.75 * shadow) + bore_wall + hole_wall
