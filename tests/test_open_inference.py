"""The Open Inference Protocol as NVIDIA's client for Triton speaks it, binary and in JSON."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import plate
from serving import Served, serving
from softpatch.deploy.serve.tensors import read_request
from softpatch.errors import ImageError, InputError
from softpatch.estimator import SoftPatch

triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


@pytest.fixture(scope="module")
def served(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models") / "flange"
    folder.mkdir()
    for version in (1, 2):
        fitted.save(folder / f"{version}.safetensors")
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    client = triton.InferenceServerClient(served.place)
    yield client
    client.close()


PLATES = np.stack([plate(70), plate(102, defective=True), plate(71)])


def given(pixels: np.ndarray, *, binary: bool = True) -> Any:
    found = triton.InferInput("image", list(pixels.shape), "BYTES" if pixels.dtype == object else "UINT8")
    found.set_data_from_numpy(pixels, binary_data=binary)
    return found


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flange")
    assert client.is_model_ready("flange", "2")
    assert not client.is_model_ready("flange", "3")
    assert not client.is_model_ready("bolt")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("flange")
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert [each["name"] for each in metadata["outputs"]] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    config = client.get_model_config("flange", "1")
    assert config["max_batch_size"] == 0
    assert config["output"][0] == {"name": "pred_score", "data_type": "TYPE_FP32", "dims": [-1]}
    index = client.get_model_repository_index()
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        ("flange", "1", "READY"),
        ("flange", "2", "READY"),
    ]


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
def test_a_batch_gets_what_python_says(client: Any, fitted: SoftPatch, binary_in: bool, binary_out: bool) -> None:
    names = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    result = client.infer("flange", [given(PLATES, binary=binary_in)], outputs=outputs, request_id="42")
    expected = [fitted.predict(each) for each in PLATES]
    assert result.get_response()["id"] == "42"
    assert result.get_response()["model_version"] == "2"
    assert result.as_numpy("pred_score").dtype == np.float32
    assert result.as_numpy("pred_score").tolist() == [each.image_score for each in expected]
    assert result.as_numpy("pred_label").tolist() == [False, True, False]
    np.testing.assert_array_equal(result.as_numpy("anomaly_map"), np.stack([each.anomaly_map for each in expected]))
    np.testing.assert_array_equal(result.as_numpy("pred_mask"), np.stack([each.mask for each in expected]))


def test_one_image_and_the_outputs_that_are_asked_for(client: Any, fitted: SoftPatch) -> None:
    outputs = [triton.InferRequestedOutput("pred_score"), triton.InferRequestedOutput("pred_label", binary_data=False)]
    result = client.infer("flange", [given(PLATES[1])], outputs=outputs, model_version="1")
    assert [each["name"] for each in result.get_response()["outputs"]] == ["pred_score", "pred_label"]
    assert result.as_numpy("pred_score").tolist() == [fitted.predict(PLATES[1]).image_score]
    assert result.as_numpy("pred_label").tolist() == [True]


def test_without_a_wish_all_outputs_come(client: Any) -> None:
    result = client.infer("flange", [given(PLATES[0])])
    assert result.as_numpy("anomaly_map").shape == (1, 64, 64)
    assert result.as_numpy("pred_mask").dtype == bool


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_request(client: Any, packing: str) -> None:
    result = client.infer("flange", [given(PLATES[1])], request_compression_algorithm=packing)
    assert result.as_numpy("pred_label").tolist() == [True]


def test_a_threshold_of_the_request(client: Any) -> None:
    result = client.infer("flange", [given(PLATES[1])], parameters={"threshold": 1000.0})
    assert result.as_numpy("pred_label").tolist() == [False]
    assert not result.as_numpy("pred_mask").any()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_image_files(client: Any, served: Served, fitted: SoftPatch) -> None:
    import base64

    files = np.array([png(each) for each in PLATES], dtype=object)
    scores = client.infer("flange", [given(files)]).as_numpy("pred_score").tolist()
    assert scores == [fitted.predict(each).image_score for each in PLATES]
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(files[1]).decode()]}
    answer = served.post("/v2/models/flange/infer", json.dumps({"inputs": [image]})).json
    assert answer["outputs"][0]["data"] == [scores[1]]


def test_a_broken_file_is_an_error_that_the_client_reads(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="image 1: the file is not a PNG"):
        client.infer("flange", [given(np.array([png(PLATES[0]), b"none"], dtype=object))])
    with pytest.raises(triton.InferenceServerException, match="there is no model 'bolt'; there is flange"):
        client.infer("bolt", [given(PLATES[0])])


def body(**changes: Any) -> bytes:
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3], "data": [1, 2, 3, 4, 5, 6]}
    top = {name: changes.pop(name) for name in ("outputs", "parameters", "id") if name in changes}
    return json.dumps({"inputs": [image | changes], **top}).encode()


def test_a_request_is_read() -> None:
    read = read_request(body(outputs=[{"name": "pred_score"}], id="a", parameters={"threshold": 2}), None)
    assert read.images.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]  # type: ignore[union-attr]
    assert ([each.name for each in read.outputs], read.id, read.threshold) == (["pred_score"], "a", 2)
    nested = read_request(body(data=[[[1, 2, 3], [4, 5, 6]]]), None)
    assert nested.images.tolist() == read.images.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "length", "words"),
    [
        (b"{", None, "the request is not JSON"),
        (b"[" * 100_000, None, "the request is not JSON"),
        (b"[]", None, "must have one input"),
        (b'{"inputs": [1]}', None, "the input is 1"),
        (b'{"inputs": [{}, {}]}', None, "must have one input"),
        (body(), "9999", "it must be the bytes of JSON"),
        (body(), "-1", "it must be the bytes of JSON"),
        (body(name="pixels"), None, "the input is 'pixels'; it must be `image`"),
        (body(datatype="FP32"), None, "the datatype of `image` is 'FP32'"),
        (body(shape=[1, 2]), None, r"it must be \(height, width, 3\)"),
        (body(shape=[1, 2, 4]), None, r"it must be \(height, width, 3\)"),
        (body(shape=[0, 2, 3]), None, "whole numbers above 0"),
        (body(shape=[True, 2, 3]), None, "whole numbers above 0"),
        (body(shape="x" * 1000), None, r"x\.\.\.; it must be a list of whole numbers"),
        (body(shape=[2, 2, 3]), None, "has 6 values, and its shape .* is of 12"),
        (body(shape=[101, 1, 1, 3]), None, "101 images; send 100 at most"),
        (body(data=[1, 2, 3, 4, 5, 256]), None, "whole numbers from 0 to 255"),
        (body(data=[1, 2, 3, 4, 5, -1]), None, "whole numbers from 0 to 255"),
        (body(data=[1, 2, 3, 4, 5, 0.5]), None, "whole numbers from 0 to 255"),
        (body(data=[True] * 6), None, "whole numbers from 0 to 255"),
        (body(data=["1"] * 6), None, "whole numbers from 0 to 255"),
        (body(data=[10**30] * 6), None, "whole numbers from 0 to 255"),
        (body(data=[[1, 2, 3], [4, 5]]), None, "no list of numbers"),
        (body(data=[]), None, "whole numbers from 0 to 255"),
        (body(data=None), None, "it must be a list of numbers"),
        (body(parameters={"threshold": "1"}), None, "`threshold` is '1'"),
        (body(parameters={"threshold": -1}), None, "threshold"),
        (body(parameters=[1]), None, "must be an object"),
        (body(parameters={"shared_memory_region": "x"}), None, "shared memory"),
        (body(id=3), None, "the id is 3"),
        (body(outputs=[{"name": "boxes"}]), None, "the output 'boxes' is unknown; there are pred_score"),
        (body(outputs=[{"name": ["x"]}]), None, "is unknown"),
        (body(outputs=[{"name": "pred_score"}] * 2), None, "asked for twice"),
        (body(outputs=[{"name": "pred_score", "parameters": {"classification": 2}}]), None, "no classes"),
        (body(datatype="BYTES", shape=[1], data=["#"]), None, "Base64"),
        (body(datatype="BYTES", shape=[2], data=["aGVsbG8="]), None, "has not the 2 files"),
        (body() + b"rest", str(len(body())), "4 bytes follow the JSON"),
    ],
    ids=range(37),
)
def test_a_request_that_is_none(content: bytes, length: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_request(content, length)


def test_binary_data_of_another_length() -> None:
    head = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],
                                   "parameters": {"binary_data_size": 6}}]}).encode()  # fmt: skip
    assert read_request(head + b"\x02\0\0\0ab", str(len(head))).images == [b"ab"]
    for data in (b"\xff\xff\xff\xffab", b"\x01\0\0\0ab", b"\x02\0\0"):
        with pytest.raises(InputError):
            read_request(head + data, str(len(head)))


def test_an_image_too_large_is_refused_by_its_shape() -> None:
    with pytest.raises(ImageError, match="more than the 100,000,000 allowed"):
        read_request(body(shape=[20_000, 20_000, 3]), None)


def test_what_unpacks_to_too_much_is_refused(served: Served) -> None:
    import zlib

    bomb = zlib.compress(b"\0" * 70_000_000)
    answer = served.post("/v2/models/flange/infer", bomb, Content_Encoding="deflate")
    assert (answer.status, "larger than the 64 MB allowed" in answer.error) == (413, True)
    assert served.post("/v2/models/flange/infer", bomb[:-9], Content_Encoding="br").status == 415
    assert served.post("/v2/models/flange/infer", b"no gzip", Content_Encoding="gzip").status == 400
