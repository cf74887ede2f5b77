"""Settings: the presets, what is refused, and that a refusal names the value."""

import dataclasses
import math
import re
from typing import Any

import pytest

from softpatch.config import PRESETS, Runtime, Settings, nearest_preset, preset_settings
from softpatch.errors import InputError


def test_the_default_is_softpatch_plus_of_the_paper() -> None:
    settings = Settings()
    assert preset_settings("softpatch+", {}) == settings
    assert (settings.resize, settings.crop, settings.backbone) == (256, 224, "builtin-v1")
    assert settings.discriminators == ("gaussian", "lof")
    assert (settings.discard_fraction, settings.segmentation_discard_fraction) == (0.15, 0.50)
    assert (settings.lof_neighbors, settings.gaussian_epsilon, settings.coreset_ratio) == (6, 0.01, 0.1)


def test_users_get_the_whole_image_and_the_presets_of_the_paper_its_centre() -> None:
    seen = {preset: preset_settings(preset, {}).seen_side for preset in PRESETS}
    assert seen == {"agreement": 256, "softpatch+": 224, "softpatch": 224, "patchcore": 224}
    assert preset_settings("agreement", {"resize": 96}).seen_side == 96
    assert preset_settings("agreement", {"crop": 80}).seen_side == 80


def test_softpatch_is_one_discriminator_and_one_bank() -> None:
    settings = preset_settings("softpatch", {})
    expected = Settings(discriminators=("lof",), discard_rule="fixed", segmentation_discard_fraction=None)
    assert settings == expected
    assert settings.noise_names == ("lof",)


def test_patchcore_discards_nothing_and_weighs_nothing() -> None:
    settings = preset_settings("patchcore", {})
    assert settings.noise_names == ()
    assert (settings.discard_fraction, settings.segmentation_discard_fraction) == (0.0, None)
    assert settings.weight_rule == "none"


@pytest.mark.parametrize("preset", PRESETS)
def test_overrides_go_on_top_and_none_is_no_override(preset: str) -> None:
    plain = preset_settings(preset, {})
    changed = preset_settings(preset, {"seed": 5, "crop": None, "discard_fraction": None, "layers": None})
    assert changed == dataclasses.replace(plain, seed=5)


def test_an_override_wins_over_its_preset() -> None:
    settings = preset_settings("softpatch", {"discriminators": ("nearest",), "segmentation_discard_fraction": 0.3})
    assert settings.discriminators == ("nearest",)
    assert settings.segmentation_discard_fraction == 0.3


@pytest.mark.parametrize(
    ("discriminators", "weight_rule", "expected"),
    [
        (("gaussian", "lof"), "clipped", ("gaussian", "lof")),
        (("gaussian",), "literal", ("gaussian", "lof")),
        (("gaussian",), "none", ("gaussian",)),
        (("lof", "nearest", "lof"), "none", ("lof", "nearest")),
    ],
)
def test_noise_names_are_each_once(discriminators: tuple[str, ...], weight_rule: str, expected: tuple[str]) -> None:
    assert Settings(discriminators=discriminators, weight_rule=weight_rule).noise_names == expected


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("discard_fraction", -0.01),
    ("discard_fraction", 0.96),
    ("discard_fraction", math.nan),
    ("segmentation_discard_fraction", -1),
    ("segmentation_discard_fraction", 1.0),
    ("weight_clip_quantile", -0.1),
    ("weight_clip_quantile", 1.1),
    ("coreset_ratio", 0),
    ("coreset_ratio", 1.5),
    ("false_alarm_rate", 0),
    ("false_alarm_rate", 0.51),
    ("check_share", -0.01),
    ("check_share", 0.51),
    ("smoothing_sigma", -4),
    ("smoothing_sigma", 101),
    ("smoothing_sigma", math.inf),
    ("gaussian_epsilon", 0),
    ("gaussian_epsilon", 1e7),
    ("embedding_dim", 0),
    ("lof_neighbors", 0),
    ("lof_neighbors", -6),
    ("projected_dim", 0),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name_and_value(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^`{name}` is {re.escape(str(value))}; it must be"):
        preset_settings("softpatch+", {name: value})


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("weight_rule", "soft", "clipped, literal, none"),
        ("rank_scope", "images", "position, image set"),
    ],
)
def test_an_unknown_choice_is_refused_with_those_there_are(name: str, value: str, choices: str) -> None:
    with pytest.raises(InputError, match=f"^`{name}` '{value}' is unknown; choose from {choices}"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layers", "layer2", "tuple"),
        ("discriminators", "lof", "tuple"),
        ("discriminators", ("lof", 3), "tuple"),
        ("seed", 0.5, "int"),
        ("seed", True, "int"),
        ("crop", "224", "int"),
        ("coreset_ratio", "0.1", "float"),
        ("backbone", None, "str"),
        ("segmentation_discard_fraction", "0.5", "float | None"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError, match=f"^`{name}` is {re.escape(repr(value))}; it must be {re.escape(expected)}"):
        Settings(**{name: value})


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match=r"^`seed` is -1; it is a whole number"):
        Settings(seed=-1)


def test_lists_serve_as_tuples() -> None:
    assert preset_settings("softpatch", {"discriminators": ["nearest"]}).discriminators == ("nearest",)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("workers", -1), ("batch_size", 2.0), ("offline", 1)])
def test_a_senseless_runtime_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^`{name}` is {value}; it must be"):
        Runtime(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("discard_fraction", [0, 0.95]),
        ("weight_clip_quantile", [0, 1]),
        ("coreset_ratio", [1e-5, 1]),
        ("false_alarm_rate", [1e-4, 0.5]),
        ("check_share", [0.0, 0.5]),
        ("smoothing_sigma", [0, 100]),
        ("lof_neighbors", [1]),
    ],
)
def test_the_ends_of_a_range_are_inside(name: str, values: list[float]) -> None:
    for value in values:
        assert getattr(Settings(**{name: value}), name) == value


def test_nothing_can_be_discarded_without_a_discriminator() -> None:
    with pytest.raises(InputError, match="only be discarded with a discriminator"):
        Settings(discriminators=())
    with pytest.raises(InputError, match="only be discarded with a discriminator"):
        Settings(discriminators=(), discard_fraction=0.0)  # the segmentation bank discards still
    assert Settings(discriminators=(), discard_fraction=0.0, segmentation_discard_fraction=0.0).noise_names == ("lof",)


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_are_known_by_the_nearest_preset(preset: str) -> None:
    assert nearest_preset(preset_settings(preset, {})) == (preset, {})
    changed = {"crop": 200, "backbone": "resnet18", "symmetries": "none" if preset == "agreement" else "find"}
    assert nearest_preset(preset_settings(preset, changed)) == (preset, changed)


def test_a_choice_is_corrected_where_one_is_near() -> None:
    with pytest.raises(InputError, match=r"`preset` 'patchcor' is unknown; .*; did you mean 'patchcore'\?$"):
        preset_settings("patchcor", {})


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^`preset` 'padim' is unknown; choose from agreement, softpatch\+, softpatch, patchcore$"
    ):
        preset_settings("padim", {})


def test_an_unknown_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        InputError, match=r"^setting 'lof_k' is unknown; choose from align, backbone, .*lof_neighbors, .*"
    ):
        preset_settings("softpatch+", {"lof_k": 6})
    with pytest.raises(InputError, match="setting 'lof_k' is unknown"):
        preset_settings("softpatch+", {"lof_k": None})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 1  # type: ignore[misc]
