"""Requests and answers of the Open Inference Protocol (KServe v2, as Triton has it), with its binary tensor data.

A request is JSON, after which the tensors may follow as bytes; so is an answer. Nothing here knows of HTTP.
"""

import base64
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softpatch.config import check_threshold
from softpatch.data.image_bounds import check_image_size
from softpatch.deploy.serve.uploads import MOST_IMAGES
from softpatch.errors import InputError
from softpatch.results import Prediction

INPUT = {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
OUTPUTS = {
    "pred_score": {"name": "pred_score", "datatype": "FP32", "shape": [-1]},
    "pred_label": {"name": "pred_label", "datatype": "BOOL", "shape": [-1]},
    "anomaly_map": {"name": "anomaly_map", "datatype": "FP32", "shape": [-1, -1, -1]},
    "pred_mask": {"name": "pred_mask", "datatype": "BOOL", "shape": [-1, -1, -1]},
}
"""What a model takes and gives, by name; -1 is any number, the first is that of images."""
MOST_JSON = 16_000_000
"""Bytes of JSON that are read: to read them holds up everything else, which bytes after them do not."""
_NUMBERS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Output:
    """A tensor that is asked for, as bytes or as JSON."""

    name: str
    is_binary: bool


@dataclass(frozen=True, eq=False)
class InferRequest:
    """What a client asks: images, pixels (N, H, W, 3) uint8 or encoded files, and which tensors it wants of them.

    Without `drift` the images do not count among those whose change is told.
    """

    images: NDArray[np.uint8] | list[bytes]
    outputs: tuple[Output, ...]
    threshold: float | None
    drift: bool
    id: str | None


def read_request(body: bytes, json_length: str | None) -> InferRequest:
    """Read a request, of whose body so many bytes are JSON, or all.

    Raises `InputError` for what is not of the protocol, or not of this model; `ImageError` for an image too large.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    if length > MOST_JSON:
        raise InputError(
            f"the request has {length / 1e6:.0f} MB of JSON, more than {MOST_JSON / 1e6:.0f}; send tensors as binary"
        )
    try:
        content = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list) or len(content["inputs"]) != 1:
        raise InputError("the request must have one input, `image`, in a list `inputs`")
    parameters = _parameters(content)
    threshold, drift, name = parameters.get("threshold"), parameters.get("drift", True), content.get("id")
    if threshold is not None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise InputError(f"the parameter `threshold` is {_shown(threshold)}; it must be a number")
        check_threshold(threshold)
    if not isinstance(drift, bool):
        raise InputError(f"the parameter `drift` is {_shown(drift)}; it must be true or false")
    if name is not None and not isinstance(name, str):
        raise InputError(f"the id is {_shown(name)}; it must be text")
    return InferRequest(
        images=_images(content["inputs"][0], body[length:]),
        outputs=_outputs(content.get("outputs"), parameters.get("binary_data_output") is True),
        threshold=threshold,
        drift=drift,
        id=name,
    )


def write_answer(
    request: InferRequest, model: str, version: int, predictions: Sequence[Prediction]
) -> tuple[bytes, int | None]:
    """The answer to a request, and how many bytes of it are JSON where tensors follow as bytes.

    Maps and masks are those of `Prediction`, (N, h, w), in the pixels of what is looked at.
    """
    outputs, binary = [], []
    for output in request.outputs:
        tensor = _tensor(output.name, predictions)
        described: dict[str, Any] = {**OUTPUTS[output.name], "shape": list(tensor.shape)}
        if output.is_binary:
            described["parameters"] = {"binary_data_size": tensor.nbytes}
            binary.append(tensor.tobytes())
            outputs.append(json.dumps(described))
        else:
            outputs.append(f'{json.dumps(described)[:-1]}, "data": [{_numbers(tensor)}]}}')
    head: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id is not None:
        head["id"] = request.id
    text = f'{json.dumps(head)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    return b"".join([text, *binary]), len(text) if binary else None


def _numbers(tensor: NDArray[Any]) -> str:
    """The values as JSON, a part at a time: what is written at once holds up everything else."""
    flat = tensor.ravel()
    parts = (flat[first : first + _NUMBERS_AT_ONCE] for first in range(0, len(flat), _NUMBERS_AT_ONCE))
    return ", ".join(json.dumps(part.tolist())[1:-1] for part in parts)


def _tensor(name: str, predictions: Sequence[Prediction]) -> NDArray[Any]:
    if name == "pred_score":
        return np.array([each.image_score for each in predictions], dtype=np.float32)
    if name == "pred_label":
        return np.array([each.is_anomalous for each in predictions])
    maps = [each.anomaly_map if name == "anomaly_map" else each.mask for each in predictions]
    return np.stack(maps)  # all of one shape, which the model's settings say


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= most):
        raise InputError(
            f"Inference-Header-Content-Length is {text[:20]!r}; it must be the bytes of JSON among the body's {most}"
        )
    return int(text)


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    parameters = record.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError(f"`parameters` are {_shown(parameters)}; they must be an object")
    if any(name.startswith("shared_memory") for name in parameters):
        raise InputError("tensors in shared memory are not read; send them in the request")
    return parameters


def _images(given: Any, binary: bytes) -> NDArray[np.uint8] | list[bytes]:
    if not isinstance(given, dict) or given.get("name") != "image":
        raise InputError(
            f"the input is {_shown(given.get('name') if isinstance(given, dict) else given)}; it must be `image`"
        )
    shape, datatype = given.get("shape"), given.get("datatype")
    if not (
        isinstance(shape, list) and 0 < len(shape) < 5 and all(type(side) is int and 0 < side < 2**31 for side in shape)
    ):
        raise InputError(f"the shape of `image` is {_shown(shape)}; it must be a list of whole numbers above 0")
    size = _parameters(given).get("binary_data_size")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise InputError(f"`binary_data_size` is {_shown(size)}, and {len(binary)} bytes follow the JSON")
    if size is None and binary:
        raise InputError(f"{len(binary)} bytes follow the JSON, of which no `binary_data_size` tells")
    data = given.get("data") if size is None else binary
    if datatype == "BYTES":
        return _encoded_files(shape, data)
    if datatype == "UINT8":
        return _pixels(shape, data)
    raise InputError(f"the datatype of `image` is {_shown(datatype)}; it must be UINT8, or BYTES for image files")


def _pixels(shape: list[int], data: Any) -> NDArray[np.uint8]:
    """(N, H, W, 3), of bytes or of a list of numbers, nested or not."""
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise InputError(
            f"the shape of `image` is {shape}; it must be (height, width, 3), or (images, height, width, 3)"
        )
    images, height, width = (1, *shape[:2]) if len(shape) == 3 else shape[:3]
    _check_count(images)
    check_image_size(width, height)
    if isinstance(data, bytes):
        pixels: NDArray[Any] = np.frombuffer(data, np.uint8)
    else:
        if not isinstance(data, list):
            raise InputError(f"the data of `image` is {_shown(data)}; it must be a list of numbers, or follow the JSON")
        try:
            pixels = np.asarray(data).ravel()
        except (ValueError, OverflowError) as error:
            raise InputError("the data of `image` is no list of numbers of the shape that is stated") from error
        if pixels.dtype.kind not in "iu" or not (pixels.size and pixels.min() >= 0 and pixels.max() <= 255):
            raise InputError("the data of `image` must be whole numbers from 0 to 255")
    if pixels.size != math.prod(shape):
        raise InputError(f"`image` has {pixels.size} values, and its shape {shape} is of {math.prod(shape)}")
    return pixels.astype(np.uint8, copy=False).reshape(images, height, width, 3)


def _encoded_files(shape: list[int], data: Any) -> list[bytes]:
    """Files, each after its length in 4 bytes, or in JSON as Base64."""
    count = math.prod(shape)
    _check_count(count)
    files: list[bytes] = []
    if isinstance(data, bytes):
        place = 0
        while place + 4 <= len(data) and len(files) < count:
            (length,) = struct.unpack_from("<I", data, place)
            files.append(data[place + 4 : place + 4 + length])
            place += 4 + length
        is_whole = place == len(data)
    else:
        texts = np.asarray(data, dtype=object).ravel().tolist() if isinstance(data, list) else []
        try:
            files = [base64.b64decode(text, validate=True) for text in texts]
        except (TypeError, ValueError) as error:
            raise InputError("image files in JSON must be in Base64; or send them as binary data") from error
        is_whole = True
    if len(files) != count or not is_whole:
        raise InputError(f"`image` has not the {count} files that its shape {shape} says, each after its length")
    return files


def _check_count(images: int) -> None:
    if images > MOST_IMAGES:
        raise InputError(f"the request has {images} images; send {MOST_IMAGES} at most, and the rest in others")


def _outputs(given: Any, is_binary: bool) -> tuple[Output, ...]:
    if given is None or given == []:
        return tuple(Output(name, is_binary) for name in OUTPUTS)
    outputs = []
    for each in given if isinstance(given, list) else [given]:
        if not isinstance(each, dict) or each.get("name") not in tuple(OUTPUTS):
            name = each.get("name") if isinstance(each, dict) else each
            raise InputError(f"the output {_shown(name)} is unknown; there are {', '.join(OUTPUTS)}")
        parameters = _parameters(each)
        if parameters.get("classification"):
            raise InputError("there are no classes to rank; leave `classification` away")
        outputs.append(Output(each["name"], parameters.get("binary_data", is_binary) is True))
    if len({output.name for output in outputs}) < len(outputs):
        raise InputError("an output is asked for twice; ask once for each")
    return tuple(outputs)


def _shown(value: Any) -> str:
    """A value as an error quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
