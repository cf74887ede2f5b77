"""A graph as a file for a runtime, ONNX or OpenVINO, in single precision, with halved weights or quantised.

The ONNX graph is made by torch's exporter; that of OpenVINO is made of it.
"""

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softpatch.deploy.export.graph import OUTPUTS, ExportedDetector
from softpatch.detector import Detector
from softpatch.errors import ExportError, InputError

OPSET = 20
"""Of ONNX's operators; runtimes from 2024 on have it."""
IR_VERSIONS = {"onnx": 10, "openvino": 11}
"""Of the files, by format."""
INPUTS = ("image", "threshold", "map_threshold")
FILES = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
"""What a graph consists of, by format; the first is what a runtime is given."""
QUANTISED = (("network", "search"), ("search",))
"""What may get 8 bits in int8, most of it first. Networks whose activations range widely do not bear it."""
Run = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]
"""Images (N, H, W, 3) as a graph takes them become its outputs by name."""
_LARGEST_SIDE = 65_500  # and batch
_WARNINGS, _ERRORS = 2, 3  # of ONNX Runtime's levels of severity
_LARGE = 1024  # numbers: those of a tensor that is worth halving


def write_graph(
    detector: Detector,
    file_format: str,
    precision: str,
    folder: Path,
    samples: Sequence[NDArray[Any]],
    quantised: Sequence[str],
) -> Path:
    """Write a detector's graph into a folder and say which file to load.

    For int8, `quantised` is what gets 8 bits, one of `QUANTISED`, and `samples` are images (1, H, W, 3) from which the
    ranges of activations are taken. Raises `InputError` where the extra that a format needs is not installed and for a
    detector that cannot be exported, and `ExportError` as `onnx_model` does.
    """
    needed(file_format)
    import onnx

    model = onnx_model(detector, single=precision == "int8")
    with TemporaryDirectory(dir=folder) as work:
        path = Path(work) / FILES["onnx"][0]
        if precision == "fp16":
            halve(model)
        onnx.save(model, path)
        if precision == "int8":
            path = _quantised(path, samples, quantised, _kept_precise(model))
        target = folder / FILES[file_format][0]
        if file_format == "onnx":
            shutil.move(path, target)
        else:
            import openvino

            graph = openvino.Core().read_model(path)
            side = openvino.Dimension(1, _LARGEST_SIDE)  # without bounds an empty batch spoils the answers after it
            graph.reshape({"image": openvino.PartialShape([side, side, side, openvino.Dimension(3)])})
            openvino.save_model(graph, target, compress_to_fp16=False)  # what is to be halved is so already
    return target


def load_graph(path: Path, *, threads: int = 0) -> Run:
    """Load a graph into the runtime of its format, with so many threads, or as many as it takes."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, _ERRORS
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": image}), strict=True))
    import openvino

    # else it computes in bfloat16 on CPUs that have it, which is too coarse for distances
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(path, "CPU", config)

    def run(image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        answers = compiled({"image": image})
        return {name: np.array(answers[name]) for name in OUTPUTS}

    return run


def onnx_model(detector: Detector, *, single: bool = False) -> Any:
    """A detector as an `onnx.ModelProto`, whose thresholds are inputs that need not be given.

    The bank is kept in half precision, as it is, or in `single`. Raises `ExportError` for a backbone that torch cannot
    bring into ONNX.
    """
    from onnx import numpy_helper

    graph = ExportedDetector(detector, single=single).eval()
    kind = torch.uint8 if detector.settings.value_range is None else torch.float32
    example = torch.zeros(2, 300, 280, 3, dtype=kind)
    free = {
        axis: torch.export.Dim(name, min=1, max=_LARGEST_SIDE) for axis, name in enumerate(("n", "height", "width"))
    }
    thresholds = {"threshold": detector.threshold, "map_threshold": detector.map_threshold}
    with _quiet():
        try:
            program = torch.onnx.export(
                graph,
                (example, *map(torch.tensor, thresholds.values())),
                dynamo=True,
                verbose=False,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=(free, None, None),
                opset_version=OPSET,
            )
        except Exception as error:  # of many types, by what a network does that ONNX has not
            name, reason = detector.backbone.name, (str(error).strip() or repr(error)).splitlines()[0]
            raise ExportError(
                f"a model with the backbone {name!r} cannot be exported: {reason}; fit with another"
            ) from error
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSIONS["onnx"]
    for name, value in thresholds.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return model


def halve(model: Any) -> None:
    """Keep the large tensors of an ONNX model in half precision; they are computed with in single precision."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _LARGE:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def needed(file_format: str) -> None:
    """Raise `InputError` where what writes and runs graphs of a format is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

        if file_format == "openvino":
            import openvino  # noqa: F401
    except ImportError as error:
        extra = "openvino" if file_format == "openvino" else "export"
        raise InputError(
            f"to export as {file_format!r} takes {error.name}, which is not installed: pip install 'softpatch[{extra}]'"
        ) from error


def _kept_precise(model: Any) -> list[str]:
    """The convolutions of an ONNX model that 8 bits harm most and quicken least, by the names of their nodes.

    They are the first two, which see the image, the last, which gives the features, and those by channel.
    """
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    names = [node.name for node in convolutions]
    by_channel = [
        node.name for node in convolutions if any(each.name == "group" and each.i > 1 for each in node.attribute)
    ]
    return list(dict.fromkeys([*names[:2], *names[-1:], *by_channel]))


def _quantised(path: Path, samples: Sequence[NDArray[Any]], parts: Sequence[str], precise: Sequence[str]) -> Path:
    """Quantise parts of a graph to 8 bits, but for the `precise` nodes, their ranges taken from the samples."""
    from onnxruntime import quantization

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Mapping[str, NDArray[Any]]] = ({"image": image} for image in samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    target = path.with_name("quantised.onnx")
    operators = [{"network": "Conv", "search": "Gemm"}[part] for part in parts]
    with _quiet():
        quantization.quantize_static(
            path,
            target,
            Samples(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=operators,
            nodes_to_exclude=list(precise),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": operators},
        )
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters warn and log of themselves."""
    import onnxruntime

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(_ERRORS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        onnxruntime.set_default_logger_severity(_WARNINGS)
