"""What a model file is, for a program and for a person; the backbone's weights are not needed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from softpatch.config import nearest_preset
from softpatch.data.paths import file_digest
from softpatch.memory.estimate import Contamination
from softpatch.stored_model import StoredBank, StoredModel, read_model

_SHOWN_ELSEWHERE = ("roi", "value_range", "tile", "tile_overlap", "size", "align")


def model_info(path: Path) -> dict[str, Any]:
    """One record, ready for JSON, of what a model file holds.

    `preset` is the nearest one and `changed` the settings that differ from it; `bytes` and `sha256` are the file's.
    Raises `ModelFileError` as loading it does, but for a backbone that is not at hand.
    """
    stored = read_model(path)
    preset, changed = nearest_preset(stored.settings)
    return {
        "format_version": stored.format_version,
        "package_version": stored.package_version,
        "bytes": path.stat().st_size,
        "sha256": file_digest(path),
        "preset": preset,
        "changed": changed,
        "settings": asdict(stored.settings),
        "training_images": stored.training_images,
        "copies": stored.copies,
        "contamination": None if stored.contamination is None else asdict(stored.contamination),
        "backbone": {"name": stored.backbone, "layers": stored.layers, "digest": stored.weights_digest},
        "grid": stored.grid,
        "banks": [_bank(bank) for bank in _different_banks(stored)],
        "threshold": stored.threshold,
        "check_threshold": stored.check_threshold,
        "map_threshold": stored.map_threshold,
        "left_out_images": len(stored.left_out.image_scores) if stored.left_out else None,
        "recorded_images": len(stored.record.names) if stored.record else None,
        "folder": stored.record.folder if stored.record else None,
    }


def _different_banks(stored: StoredModel) -> list[StoredBank]:
    same = stored.segmentation.patches is stored.classification.patches
    return [stored.classification] if same else [stored.classification, stored.segmentation]


def _bank(bank: StoredBank) -> dict[str, int]:
    patches, dim = bank.patches.shape
    return {"patches": patches, "embedding_dim": dim}


def in_words(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What `model_info` found as headings and what stands beside them, in the order in which a person asks."""
    settings, backbone = record["settings"], record["backbone"]
    black, white = settings["value_range"] or (None, None)
    copies = "" if record["copies"] == 1 else f", {record['copies']} copies of each, turned or mirrored"
    layers = f"layer{'s' if len(backbone['layers']) > 1 else ''} {', '.join(backbone['layers'])}"
    banks = [f"{bank['patches']:,} patches of {bank['embedding_dim']} numbers" for bank in record["banks"]]
    roi = "" if settings["roi"] is None else ", in it only a region of interest"
    aligned = "" if settings["align"] == "none" else ", aligned"
    rate, share = (f"{100 * settings[name]:.3g}%" for name in ("false_alarm_rate", "check_share"))
    contamination = record["contamination"]
    kept = record["left_out_images"]
    return [
        ("learned from", f"{record['training_images']:,} images{copies}"),
        ("names of images", _names(record["recorded_images"], record["folder"])),
        ("contamination", str(Contamination(**contamination)) if contamination else "not estimated"),
        ("threshold", f"image score {record['threshold']:.4g}, to check above {record['check_threshold']:.4g}"),
        ("threshold of maps", f"{record['map_threshold']:.4g}"),
        (
            "false alarms",
            f"{rate} of good images at fit, and {share} more to check; not if the threshold was set since",
        ),
        ("left-out scores", f"kept, of {kept} images" if kept else "not kept; the threshold can only be set"),
        ("preset", record["preset"] + _changed(record["changed"])),
        ("looks at", f"{_look(settings)}{roi}{aligned}, in {record['grid'][0]} x {record['grid'][1]} patches"),
        ("values", "as files state them" if white is None else f"black at {black:g}, white at {white:g}"),
        ("backbone", f"{backbone['name']}, {layers}, weights of SHA-256 {backbone['digest']}"),
        ("memory bank", banks[0] if len(banks) == 1 else f"{banks[0]} for scores, {banks[1]} for maps"),
        ("written by", f"softpatch {record['package_version']}, format version {record['format_version']}"),
        ("size", f"{record['bytes'] / 1e6:.1f} MB"),
        ("SHA-256", record["sha256"]),
    ]


def _look(settings: dict[str, Any]) -> str:
    if settings["tile"] is not None:
        (width, height), tile = settings["size"], settings["tile"]
        return f"{width} x {height} px, in tiles of {tile} x {tile} px that share {settings['tile_overlap']}"
    resize, crop = settings["resize"], settings["crop"]
    return f"{resize} x {resize} px" + ("" if crop in (None, resize) else f", of which the centre {crop} x {crop} px")


def _names(count: int | None, folder: str | None) -> str:
    if count is None:
        return "not kept; the model cannot be changed"
    return f"kept, {count:,}, " + (f"below {folder}" if folder else "some of images that were in memory")


def _changed(settings: dict[str, Any]) -> str:
    settings = {name: value for name, value in settings.items() if name not in _SHOWN_ELSEWHERE}
    if not settings:
        return ", unchanged"
    values = {name: "+".join(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return ", with " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
