"""Exported graphs in their runtimes, what is written beside them, and when nothing is written."""

import json
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from PIL import Image

from conftest import plate, tiny_softpatch
from softpatch import ExportError, SoftPatch
from softpatch.atomic import temporary_prefix
from softpatch.data.images import file_ref
from softpatch.deploy.export import agreement
from softpatch.deploy.export.agreement import Agreement, compare, disagreement
from softpatch.deploy.export.export import export_detector
from softpatch.deploy.export.graph_file import FILES, OUTPUTS, load_graph, needed
from softpatch.errors import ImageError, InputError
from test_cli import run

TINY = ["--resize", "64", "--device", "cpu"]
EXPORTS = [("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "fp16"), ("openvino", "int8")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in backbone, fitted on plates that lie in a folder beside it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "photos").mkdir()
    for seed in range(14):
        Image.fromarray(plate(seed, defective=seed == 13)).save(folder / f"photos/{seed:02d}.png")
    SoftPatch(resize=64, device="cpu", symmetries="none").fit(folder / "photos").save(folder / "product.safetensors")
    return folder / "product.safetensors"


def versions_of(graph: Path) -> tuple[int, int | None]:
    """The version of the format of a file, and of the operators in it."""
    if graph.suffix == ".xml":
        return int(ElementTree.parse(graph).getroot().attrib["version"]), None
    model = onnx.load(graph)
    (opset,) = {each.version for each in model.opset_import if each.domain == ""}
    return model.ir_version, opset


@pytest.mark.parametrize(("file_format", "precision"), EXPORTS)
def test_an_exported_graph_answers_as_the_model(
    model: Path,
    tmp_path: Path,
    plate_folder: Path,
    capsys: pytest.CaptureFixture[str],
    file_format: str,
    precision: str,
) -> None:
    options = ["--format", file_format, "--precision", precision, "--check", plate_folder, "-o", tmp_path / "out"]
    code, out, told = run(capsys, "export", model, *options, "--device", "cpu")
    assert code == 0, told
    assert f"{FILES[file_format][0]}: {precision}, described in model.json" in out
    assert "Checked on 8 images" in told
    assert "Image AUROC: " in told
    description = json.loads((tmp_path / "out/model.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES[file_format], "model.json"])
    assert description["files"] == {
        name: sha256((tmp_path / "out" / name).read_bytes()).hexdigest() for name in FILES[file_format]
    }
    assert description["model_digest"] == sha256(model.read_bytes()).hexdigest()
    assert [output["name"] for output in description["outputs"]] == list(OUTPUTS)
    assert (description["ir_version"], description["opset"]) == versions_of(tmp_path / "out" / FILES[file_format][0])
    assert description["quantised"] == (["network", "search"] if precision == "int8" else [])

    answer = load_graph(tmp_path / "out" / FILES[file_format][0], threads=1)
    images = [plate(500), plate(501, defective=True)]
    expected = SoftPatch.load(model, device="cpu").predict(images)
    larger = np.stack([np.asarray(Image.fromarray(image).resize((130, 90))) for image in images])
    allowed = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.2}[precision]
    for given in (np.stack(images), images[1][None], larger):
        found = answer(given)
        assert {name: value.shape for name, value in found.items()} == {
            name: (len(given),) if name.startswith("pred_s") or name == "pred_label" else (len(given), 64, 64)
            for name in OUTPUTS
        }
    if file_format == "openvino":  # without bounds of its input it would give the next image an old answer
        with pytest.raises(RuntimeError, match=r"(?i)image|shape|tensor"):
            answer(np.stack(images)[:0])
    found = answer(np.stack(images))
    assert found["pred_score"] == pytest.approx([each.image_score for each in expected], rel=allowed)
    assert found["pred_label"].tolist() == [False, True]
    assert not found["pred_mask"][0].any()
    assert found["pred_mask"][1].any()
    for given, each in zip(found["anomaly_map"], expected, strict=True):
        np.testing.assert_allclose(given, each.anomaly_map, atol=5 * allowed * each.map_threshold)


@pytest.mark.parametrize(
    ("settings", "file_format"),
    [
        ({"preset": "softpatch+"}, "onnx"),
        ({"tile": 64, "tile_overlap": 16, "size": (128, 64), "resize": None, "crop": None}, "openvino"),
    ],
    ids=["a backbone of timm, two banks, soft weights", "tiles"],
)
def test_graphs_of_other_models(tmp_path: Path, settings: dict[str, object], file_format: str) -> None:
    images = np.concatenate([[plate(seed) for seed in range(12)]] * 2, axis=2)
    images[:, :, 64:] = plate(0)
    estimator = tiny_softpatch(**settings).fit(images)
    new = np.concatenate([[plate(seed, defective=True) for seed in (500, 501, 502)], images[:3, :, :64]], axis=2)
    refs = []
    for number, image in enumerate(new):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        refs.append(file_ref(tmp_path / f"{number}.png"))
    found = export_detector(estimator.detector, tmp_path / "out", file_format=file_format, images=refs)
    assert (found.images, found.changed_verdicts) == (3, 0)
    answer = load_graph(tmp_path / "out" / FILES[file_format][0])
    scores = [prediction.image_score for prediction in estimator.predict(list(new))]
    assert answer(new)["pred_score"] == pytest.approx(scores, rel=1e-3)
    assert answer(new[:1])["pred_score"] == pytest.approx(scores[:1], rel=1e-3)


def test_what_is_no_description_of_a_graph_stays_and_what_a_killed_export_left_goes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").write_text('{"mine": 1}')
    left = tmp_path / temporary_prefix().replace(f"-{os.getpid()}-", "-999999999-")
    left.mkdir()
    code, _, told = run(capsys, "export", model, "-o", tmp_path, "--device", "cpu")
    assert code == 2
    assert "model.json exists and describes no exported model; choose another folder" in told
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.json": '{"mine": 1}'}


def test_a_model_that_is_replaced_while_it_is_loaded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(model.read_bytes())
    load = SoftPatch.load

    def load_and_replace(path: Path, **options: object) -> SoftPatch:
        loaded = load(path, **options)
        loaded.threshold = 2 * loaded.threshold
        loaded.save(path)
        return loaded

    monkeypatch.setattr(SoftPatch, "load", load_and_replace)
    code, _, told = run(capsys, "export", copy, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert f"{copy} was replaced while it was loaded; start again" in told


def test_an_image_that_cannot_be_read_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no image")
    detector = SoftPatch.load(model, device="cpu").detector
    with pytest.raises(ImageError, match=r"no\.png: "):
        compare(detector, lambda _: {}, [file_ref(tmp_path / "no.png")])


def test_a_backbone_that_torch_cannot_export(
    fitted: SoftPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr("torch.onnx.export", fail)
    expected = "the backbone 'resnet18' cannot be exported: no such operator; fit with another$"
    Image.fromarray(plate(1)).save(tmp_path / "1.png")
    with pytest.raises(ExportError, match=expected):
        export_detector(fitted.detector, tmp_path / "out", images=[file_ref(tmp_path / "1.png")])
    assert list((tmp_path / "out").iterdir()) == []


def test_thresholds_are_inputs_that_need_not_be_given(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    code, _, told = run(capsys, "export", model, "-o", tmp_path, "--device", "cpu")
    assert code == 0, told
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [each.name for each in session.get_inputs()] == ["image"]
    assert [each.name for each in session.get_overridable_initializers()] == ["threshold", "map_threshold"]
    image = plate(501, defective=True)[None]
    for given, label in (({}, True), ({"threshold": np.array(1e9, np.float32)}, False)):
        assert session.run(["pred_label"], {"image": image, **given})[0].tolist() == [label]


def test_a_graph_that_does_not_agree_is_not_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        graph = load_graph(path)
        return lambda image: {
            name: value * (1.1 if name == "pred_score" else 1) for name, value in graph(image).items()
        }

    monkeypatch.setattr("softpatch.deploy.export.export.load_graph", wrong)
    (tmp_path / "model.onnx").write_bytes(b"an older graph")
    code, _, told = run(capsys, "export", model, "-o", tmp_path, "--device", "cpu")
    assert code == 2
    assert "the exported graph does not agree with the model: of 14 images a score is off by 0.1 of itself" in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"an older graph"


def test_a_graph_of_another_format_keeps_its_description(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.xml").touch()
    code, _, told = run(capsys, "export", model, "-o", tmp_path, "--device", "cpu")
    assert code == 2
    assert f"{tmp_path} holds model.xml, a graph of another format; choose another folder" in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.xml"]


def test_the_deviation_that_each_precision_allows() -> None:
    off = Agreement(3, 0.005, 0.0, 0, None, None)
    assert disagreement(off, "fp16") is None
    assert disagreement(off, "fp32") == "of 3 images a score is off by 0.005 of itself, and 0.001 is allowed in fp32"
    nan = disagreement(Agreement(3, 0.0, float("nan"), 0, None, None), "int8")
    assert nan == "of 3 images a map is off by nan of itself, and 1 is allowed in int8"


def test_a_network_that_does_not_bear_8_bits_keeps_32(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    off = iter([1.3, 1.0])

    def first_wrong(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        graph, times = load_graph(path), next(off)
        return lambda image: {
            name: value * (times if name == "pred_score" else 1) for name, value in graph(image).items()
        }

    monkeypatch.setattr("softpatch.deploy.export.export.load_graph", first_wrong)
    code, _, told = run(capsys, "export", model, "--precision", "int8", "-o", tmp_path, "--device", "cpu")
    assert code == 0, told
    assert "Note: the network does not bear 8 bits, of 14 images a score is off by 0." in told
    assert "it keeps 32, and the search alone gets 8" in told
    assert json.loads((tmp_path / "model.json").read_text())["quantised"] == ["search"]
    graph = onnx.load(tmp_path / "model.onnx").graph
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kinds = {node.op_type for node in graph.node if set(node.input) & dequantised}
    assert kinds == {"Gemm"}


def test_images_that_are_gone_are_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement.Path, "is_file", lambda path: path.suffix != ".png")
    code, _, told = run(capsys, "export", model, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 2
    assert "the images that the model learned from are not at hand; name some to check with, as --check" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "file_format", "extra"), [("onnx", "onnx", "export"), ("openvino", "openvino", "openvino")]
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str, file_format: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        InputError, match=rf"takes {module}, which is not installed: pip install 'softpatch\[{extra}\]'"
    ):
        needed(file_format)
