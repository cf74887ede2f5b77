"""Procedural pictures: surfaces, parts and prints that look enough like product photographs to teach features on.

Nothing here is taken from a photograph. A picture is a background on which leaves of texture lie in shapes, lit,
blurred and noisy. Everything is drawn for a whole batch at once, and the same seed draws the same pictures on the
same machine.

Axes: N pictures or textures, S their side in pixels. Textures and shapes are float32 (N, S, S) in [0, 1].
"""

import argparse
from collections.abc import Callable
from math import pi
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Generator, Tensor

_LEAVES = 6
_SEGMENTS = 14
_CELLS = 20


def draw_pictures(count: int, size: int, seed: int, *, device: str = "cpu") -> Tensor:
    """Draw RGB pictures: float32 (count, 3, size, size) in [0, 1]."""
    random = Generator(device).manual_seed(seed)
    skins = _coloured(_textures(2 * count, size, random), random)  # shared by all leaves of the batch
    pictures = skins[:count] * 1.0
    plain = _draw(random, 0, 1, count, 1, 1, 1) < 0.45  # many products lie on a plain background
    contrast = torch.where(plain, _draw(random, 0, 0.25, count, 1, 1, 1), _draw(random, 0.4, 1, count, 1, 1, 1))
    mean = pictures.mean(dim=(2, 3), keepdim=True)
    pictures = mean + (pictures - mean) * contrast
    height = torch.zeros(count, size, size, device=device)
    crowded = torch.where(_draw(random, 0, 1, count, 1, 1) < 0.6, 0.55, 0.0)  # else a part or two, alone
    for leaf in range(_LEAVES):
        shape = _shapes(count, size, random)
        shape *= _draw(random, 0, 1, count, 1, 1) < (0.95 if leaf < 2 else crowded)
        skin = skins[torch.randperm(2 * count, generator=random, device=device)[:count]]
        flat = _draw(random, 0, 1, count, 1, 1, 1) ** 1.5
        skin = skin * flat + skin.mean(dim=(2, 3), keepdim=True) * (1 - flat)
        shadow = torch.roll(shape, (2, 2), (1, 2)) * _draw(random, 0, 1, count, 1, 1).sub(0.6).clamp_min(0)
        pictures = pictures * (1 - shadow[:, None])
        pictures = torch.lerp(pictures, skin, shape[:, None])
        height = torch.maximum(height * (1 - shape), shape * _draw(random, 0, 1, count, 1, 1))
    return _photographed(pictures, height + 0.15 * skins[:count].mean(dim=1), random)


def alter_pictures(pictures: Tensor, seed: int) -> Tensor:
    """Photograph the same scenes again, (N, 3, S, S) in [0, 1]: another piece, a little moved, most with a defect.

    What differs is faint as often as plain, so that small differences are learned as well as large ones.
    """
    count, _, size, _ = pictures.shape
    random = Generator(pictures.device).manual_seed(seed)
    angle, shift = _draw(random, -0.03, 0.03, count), _draw(random, -3, 3, count, 2) / size
    moves = (_draw(random, 0, 1, count) < 0.6).float()
    cos, sin = (angle * moves).cos(), (angle * moves).sin()
    turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    grid = F.affine_grid(torch.cat([turn, (shift * moves[:, None])[:, :, None]], dim=2), [count, 3, size, size], False)
    moved = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)

    x, y = _plane(size, random, count)
    near = torch.exp(-(x.square() + y.square()) / _draw(random, -2.8, -0.8, count, 1, 1).exp().square() / 2)
    where = near * torch.where(_draw(random, 0, 1, count, 1, 1) < 0.5, _strokes(count, size, random), 1.0)
    strength = _draw(random, 0, 1, count, 1, 1).square() * (_draw(random, 0, 1, count, 1, 1) < 0.8)
    elsewhere = torch.roll(moved, (size // 3, size // 4), (2, 3))  # what also occurs in the scene, or a plain colour
    stain = torch.where(_draw(random, 0, 1, count, 1, 1, 1) < 0.5, elsewhere, _draw(random, 0, 1, count, 3, 1, 1))
    altered = torch.lerp(moved, stain, (where * strength)[:, None])

    gain, offset = _draw(random, 0.95, 1.05, count, 1, 1, 1), _draw(random, -0.02, 0.02, count, 1, 1, 1)
    grain = torch.randn(pictures.shape, generator=random, device=pictures.device)
    return (altered * gain + offset + grain * _draw(random, 0, 0.015, count, 1, 1, 1)).clamp(0, 1)


def _draw(random: Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=random, device=random.device) * (high - low) + low


def _plane(size: int, random: Generator, count: int) -> tuple[Tensor, Tensor]:
    """Coordinates (N, S, S) each, [-1, 1] across the picture, turned by a random angle and moved at random."""
    axis = torch.linspace(-1, 1, size, device=random.device)
    angle = _draw(random, 0, 2 * pi, count, 1, 1)
    x = axis[None, None, :] - _draw(random, -0.8, 0.8, count, 1, 1)
    y = axis[None, :, None] - _draw(random, -0.8, 0.8, count, 1, 1)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


# --- textures ---


def _textures(count: int, size: int, random: Generator) -> Tensor:
    """Textures of every kind, an equal share of each (twice as much noise), in random order."""
    kinds = (_noise, _noise, _grating, _weave, _cells, _dots, _strokes)
    each = -(-count // len(kinds))
    textures = torch.cat([kind(each, size, random) for kind in kinds])
    order = torch.randperm(len(textures), generator=random, device=random.device)[:count]
    return textures[order]


def _noise(count: int, size: int, random: Generator, lowest: float = 0.2, highest: float = 2.2) -> Tensor:
    """Filtered noise, from grain to clouds, often stretched along a direction like a brushed or ground surface."""
    white = torch.randn(count, size, size, generator=random, device=random.device)
    frequency_y = torch.fft.fftfreq(size, device=random.device)[None, :, None] * size
    frequency_x = torch.fft.rfftfreq(size, device=random.device)[None, None, :] * size
    angle, stretch = _draw(random, 0, pi, count, 1, 1), _draw(random, -1, 1, count, 1, 1).pow(3).mul(2).exp()
    along = (frequency_x * angle.cos() + frequency_y * angle.sin()) * stretch
    across = (frequency_y * angle.cos() - frequency_x * angle.sin()) / stretch
    falloff = _draw(random, lowest, highest, count, 1, 1)
    spectrum = torch.fft.rfft2(white) * (along.square() + across.square() + 1).pow(-falloff / 2)
    return _spread(torch.fft.irfft2(spectrum, s=(size, size)), random)


def _spread(values: Tensor, random: Generator) -> Tensor:
    """Squash any values (N, S, S) into [0, 1], at a random steepness: shades at one end, two tones at the other."""
    deviation, mean = torch.std_mean(values, dim=(1, 2), keepdim=True)
    steepness = _draw(random, -0.5, 2.2, len(values), 1, 1).exp()
    return torch.sigmoid((values - mean) / (deviation + 1e-6) * steepness)


def _grating(count: int, size: int, random: Generator) -> Tensor:
    """Stripes, straight or bent: threads, ribs, machining marks."""
    x, y = _plane(size, random, count)
    bend = _draw(random, 0, 1, count, 1, 1).pow(3) * (y * _draw(random, 1, 6, count, 1, 1)).sin()
    frequency = _draw(random, 1.2, 4.0, count, 1, 1).exp()
    return _spread(((x + 0.4 * bend) * frequency + _draw(random, 0, 6, count, 1, 1)).sin(), random)


def _weave(count: int, size: int, random: Generator) -> Tensor:
    """Two sets of threads, over and under each other: cloth, mesh, grids."""
    x, y = _plane(size, random, count)
    frequency = _draw(random, 1.5, 3.7, count, 1, 1).exp()
    x, y = x * frequency, y * frequency * _draw(random, 0.7, 1.4, count, 1, 1)
    over = (x / 2).sin() * (y / 2).sin() > 0
    gap = _draw(random, 0, 0.7, count, 1, 1)
    thread_x, thread_y = (x.cos().abs() - gap).clamp_min(0), (y.cos().abs() - gap).clamp_min(0)
    crossed = torch.where(over, thread_x + 0.3 * thread_y, thread_y + 0.3 * thread_x)
    open_mesh = torch.maximum(x.cos(), y.cos())
    return _spread(torch.where(_draw(random, 0, 1, count, 1, 1) < 0.3, open_mesh, crossed), random)


def _cells(count: int, size: int, random: Generator) -> Tensor:
    """Voronoi cells as flat shades, domes, or seams: grain, leather, crushed stone, tiles."""
    scale = _draw(random, 0.7, 2.5, count, 1, 1)
    x, y = _plane(size, random, count)
    place = torch.stack([x * scale, y * scale], dim=-1).flatten(1, 2)  # (N, S·S, 2)
    seeds = _draw(random, -2, 2, count, _CELLS, 2)
    distance = torch.cdist(place, seeds).transpose(1, 2).contiguous()  # (N, cells, S·S)
    nearest, cell = distance.min(dim=1)
    second = distance.scatter(1, cell[:, None], torch.inf).amin(dim=1)
    shade = _draw(random, 0, 1, count, _CELLS).gather(1, cell)
    seam = ((second - nearest) * _draw(random, 2, 12, count, 1)).clamp_max(1)
    dome = 1 - (nearest * 1.5).clamp_max(1)
    kind = _draw(random, 0, 1, count, 1)
    values = torch.where(kind < 0.4, shade * (0.4 + 0.6 * seam), torch.where(kind < 0.7, seam, dome))
    return values.view(count, size, size).clamp(0, 1)


def _dots(count: int, size: int, random: Generator) -> Tensor:
    """Dots or rings on a lattice: holes, pins, rivets, knurls."""
    x, y = _plane(size, random, count)
    frequency = _draw(random, 0.7, 2.6, count, 1, 1).exp()
    row = (y * frequency).round()
    shift = torch.where(_draw(random, 0, 1, count, 1, 1) < 0.5, 0.5, 0.0) * (row % 2)
    off_x, off_y = (x * frequency + shift) - (x * frequency + shift).round(), y * frequency - row
    radius, soft = _draw(random, 0.1, 0.42, count, 1, 1), _draw(random, 0.02, 0.15, count, 1, 1)
    distance = (off_x.square() + off_y.square()).sqrt() - radius
    ring = _draw(random, 0, 1, count, 1, 1) < 0.3
    return torch.sigmoid(-torch.where(ring, distance.abs() - radius / 4, distance) / soft)


def _strokes(count: int, size: int, random: Generator) -> Tensor:
    """Thin strokes, scattered like scratches and hairs or upright in rows like print."""
    x, y = _plane(size, random, count)
    print_like = _draw(random, 0, 1, count, 1) < 0.5
    start = _draw(random, -1, 1, count, _SEGMENTS, 2)
    angle, length = _draw(random, 0, 2 * pi, count, _SEGMENTS), _draw(random, 0.1, 0.9, count, _SEGMENTS)
    step = torch.where(print_like[..., None], 0.25, 1e-3)
    start = (start / step).round() * step
    angle = torch.where(print_like, (angle / (pi / 4)).round() * (pi / 4), angle)
    length = torch.where(print_like, 0.25, length)
    nearest = torch.full((count, size, size), torch.inf, device=random.device)
    for segment in range(_SEGMENTS):
        cos, sin = angle[:, segment, None, None].cos(), angle[:, segment, None, None].sin()
        right, down = x - start[:, segment, 0, None, None], y - start[:, segment, 1, None, None]
        along = (right * cos + down * sin).clamp_min(0).minimum(length[:, segment, None, None])
        nearest = torch.minimum(nearest, (right - along * cos).square() + (down - along * sin).square())
    width = _draw(random, -4.6, -2.6, count, 1, 1).exp()
    return torch.exp(-nearest / width.square())


def _coloured(textures: Tensor, random: Generator) -> Tensor:
    """Colour textures (N, S, S) from a dark to a light tone, often nearly grey: (N, 3, S, S)."""
    count = len(textures)
    saturation = _draw(random, 0, 1, count, 1, 1, 1).square()
    tones = []
    for low, high in ((0.0, 0.75), (0.15, 1.0)):
        grey, colour = _draw(random, low, high, count, 1, 1, 1), _draw(random, 0, 1, count, 3, 1, 1)
        tones.append(grey + (colour - grey) * saturation)
    return torch.lerp(tones[0], tones[1], textures[:, None])


# --- shapes ---


def _shapes(count: int, size: int, random: Generator) -> Tensor:
    """One kind of shape per call, each of its own form: inside 1, outside 0."""
    kinds: tuple[Callable[[Tensor, Tensor, Generator], Tensor], ...] = (_polygon, _ellipse, _rod, _bar)
    number = int(torch.randint(len(kinds) + 1, (1,), generator=random, device=random.device))
    if number == len(kinds):
        blob = _noise(count, size, random, 1.8, 3.0)
        return torch.sigmoid((blob - _draw(random, 0.4, 0.9, count, 1, 1)) * 40)
    x, y = _plane(size, random, count)
    repeats = torch.where(_draw(random, 0, 1, count, 1, 1) < 0.25, _draw(random, 1.5, 5, count, 1, 1), 0.4)
    x, y = (((v * repeats + 1) % 2) - 1 for v in (x, y))  # a lattice of the same part, or one
    distance = kinds[number](x, y, random) / repeats  # in picture units
    softness = _draw(random, -4.5, -2.5, count, 1, 1).exp()
    return torch.sigmoid(-distance / softness)


def _polygon(x: Tensor, y: Tensor, random: Generator) -> Tensor:
    """A convex polygon of 3 to 7 edges: signed distance, negative inside."""
    distance = torch.full_like(x, -torch.inf)
    edges = int(torch.randint(3, 8, (1,), generator=random, device=random.device))
    for edge in range(edges):
        angle = 2 * pi * edge / edges + _draw(random, -0.4, 0.4, len(x), 1, 1)
        distance = torch.maximum(distance, x * angle.cos() + y * angle.sin() - _draw(random, 0.08, 0.4, len(x), 1, 1))
    return distance


def _ellipse(x: Tensor, y: Tensor, random: Generator) -> Tensor:
    """An ellipse, often a ring."""
    radius = _draw(random, 0.08, 0.4, len(x), 1, 1)
    squeeze = _draw(random, -0.7, 0.7, len(x), 1, 1).exp()
    distance = ((x * squeeze).square() + (y / squeeze).square() + 1e-9).sqrt() - radius
    ring = _draw(random, 0, 1, len(x), 1, 1)
    return torch.where(ring < 0.4, distance.abs() - radius * ring, distance)


def _rod(x: Tensor, y: Tensor, random: Generator) -> Tensor:
    """A rod whose sides may be threaded, stepped or wavy: screws, pins, cables."""
    length, radius = _draw(random, 0.15, 0.9, len(x), 1, 1), _draw(random, 0.03, 0.16, len(x), 1, 1)
    depth = _draw(random, -0.4, 0.4, len(x), 1, 1).clamp_min(0)
    pitch = _draw(random, 3, 5, len(x), 1, 1).exp()
    head = torch.where((x > length * 0.7) & (_draw(random, 0, 1, len(x), 1, 1) < 0.5), 1.8, 1.0)
    side = y.abs() - radius * head * (1 + depth * (x * pitch + y.sign() * pi / 2).sin())
    return torch.maximum(side, x.abs() - length)


def _bar(x: Tensor, y: Tensor, random: Generator) -> Tensor:
    """A rectangle with rounded corners, often only its frame."""
    half_x, half_y = _draw(random, 0.05, 0.5, len(x), 1, 1), _draw(random, 0.03, 0.4, len(x), 1, 1)
    corner = _draw(random, 0, 0.03, len(x), 1, 1)
    right, down = x.abs() - half_x + corner, y.abs() - half_y + corner
    outside = (right.clamp_min(0).square() + down.clamp_min(0).square() + 1e-9).sqrt()
    distance = outside + torch.maximum(right, down).clamp_max(0) - corner
    frame = _draw(random, 0, 1, len(x), 1, 1)
    return torch.where(frame < 0.3, distance.abs() - 0.1 * frame, distance)


# --- light and camera ---


def _photographed(pictures: Tensor, height: Tensor, random: Generator) -> Tensor:
    """Light the scene from a side, with highlights on its relief (N, S, S), and take it with an ordinary camera."""
    count, _, size, _ = pictures.shape
    slope_y, slope_x = torch.gradient(_blurred(height[:, None], random, 0.5, 2.0)[:, 0], dim=(1, 2))
    angle, relief = _draw(random, 0, 2 * pi, count, 1, 1), _draw(random, 0, 1, count, 1, 1).square() * 8
    facing = ((slope_x * angle.cos() + slope_y * angle.sin()) * relief).clamp(-1, 1)
    highlight = facing.clamp_min(0).pow(4) * _draw(random, -1, 1, count, 1, 1).clamp_min(0)
    pictures = pictures * (1 + 0.6 * facing)[:, None] + highlight[:, None]

    axis = torch.linspace(-1, 1, size, device=random.device)
    fall = axis[None, None, :] * _draw(random, -0.3, 0.3, count, 1, 1)
    fall = fall + axis[None, :, None] * _draw(random, -0.3, 0.3, count, 1, 1)
    radius = axis[None, None, :].square() + axis[None, :, None].square()
    fall = fall - radius * _draw(random, -0.2, 0.25, count, 1, 1)
    cast = 1 + _draw(random, -0.12, 0.12, count, 3, 1, 1)
    pictures = pictures * (1 + fall)[:, None] * cast * _draw(random, 0.6, 1.6, count, 1, 1, 1)
    pictures = pictures.clamp(0, 1).pow(_draw(random, -0.5, 0.5, count, 1, 1, 1).exp())

    faint = torch.where(_draw(random, 0, 1, count, 1, 1, 1) < 0.4, _draw(random, 0.1, 0.8, count, 1, 1, 1), 1.0)
    pictures = torch.lerp(pictures.mean(dim=(2, 3), keepdim=True), pictures, faint)
    grey = pictures.mean(dim=1, keepdim=True).expand_as(pictures)
    pictures = torch.where(_draw(random, 0, 1, count, 1, 1, 1) < 0.35, grey, pictures)
    pictures = torch.where(_draw(random, 0, 1, count, 1, 1, 1) < 0.45, _blurred(pictures, random, 0.3, 1.5), pictures)
    grain = torch.randn(pictures.shape, generator=random, device=random.device)
    amount = _draw(random, -1, 1, count, 1, 1, 1).clamp_min(0).square() * 0.06
    return (pictures + grain * amount).clamp(0, 1)


def _blurred(images: Tensor, random: Generator, low: float, high: float) -> Tensor:
    """Blur images (N, C, S, S), each by a Gaussian of its own width between `low` and `high` pixels."""
    count, channels, size, _ = images.shape
    sigma = _draw(random, low, high, count, 1)
    taps = torch.arange(-4, 5, device=random.device)
    kernel = torch.exp(-taps.square() / (2 * sigma.square()))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)  # (N·C, 9)
    flat = F.pad(images.reshape(1, count * channels, size, size), (4, 4, 4, 4), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    return flat.view(images.shape)


def main() -> None:
    """Draw a contact sheet: rows of pictures, and under each the same scene photographed again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("procedural-pictures.jpg"))
    arguments = parser.parse_args()
    pictures = draw_pictures(24, 128, arguments.seed)
    both = torch.stack([pictures, alter_pictures(pictures, arguments.seed)]).view(2, 3, 8, 3, 128, 128)
    sheet = (both.permute(1, 0, 4, 2, 5, 3) * 255).round().to(torch.uint8)  # row, twin, y, column, x, channel
    Image.fromarray(sheet.reshape(6 * 128, 8 * 128, 3).numpy()).save(arguments.output, quality=88)


if __name__ == "__main__":
    main()
