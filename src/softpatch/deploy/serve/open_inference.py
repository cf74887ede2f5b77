"""The routes of the Open Inference Protocol, `/v2`: what clients of Triton and KServe ask."""

import asyncio
import io
import zlib
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from softpatch import __version__
from softpatch.data.frames import frame_refs
from softpatch.data.images import ImageRef
from softpatch.deploy.serve.catalogue import ModelFile
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.deploy.serve.service import Service
from softpatch.deploy.serve.tensors import INPUT, OUTPUTS, InferRequest, read_request, write_answer
from softpatch.errors import SoftPatchError
from softpatch.results import Prediction

_LENGTH = "Inference-Header-Content-Length"
_PLATFORM = "softpatch"


def routes(service: Service) -> APIRouter:
    """Health, metadata and inference."""
    router = APIRouter(tags=["Open Inference Protocol"])

    @router.get("/v2")
    async def server() -> dict[str, Any]:
        """Name, version and extensions of the server."""
        return {"name": "softpatch", "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server answers at all."""
        return {"live": True}

    @router.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        """Whether it takes requests: not when it is about to end."""
        return JSONResponse({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @router.post("/v2/repository/index")
    async def index() -> list[dict[str, str]]:
        """All models and versions."""
        found = await asyncio.to_thread(service.models.catalogue)
        files = [file for versions in found.values() for file in versions.values()]
        return [
            {"name": file.name, "version": str(file.version), "state": "READY", "reason": ""}
            if service.models.is_usable(file)
            else {"name": file.name, "version": str(file.version), "state": "UNAVAILABLE", "reason": "cannot be loaded"}
            for file in files
        ]

    @router.get("/v2/models/{name}")
    @router.get("/v2/models/{name}/versions/{version}")
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """What a model takes and gives."""
        file = await service.find(name, version)
        versions = service.models.catalogue().get(file.name, {})
        described = {"versions": [str(each) for each in versions], "platform": _PLATFORM}
        return {"name": file.name, **described, "inputs": [INPUT], "outputs": list(OUTPUTS.values())}

    @router.get("/v2/models/{name}/config")
    @router.get("/v2/models/{name}/versions/{version}/config")
    async def config(name: str, version: str | None = None) -> dict[str, Any]:
        """The same in Triton's words."""
        file = await service.find(name, version)
        return {
            "name": file.name,
            "platform": _PLATFORM,
            "backend": _PLATFORM,
            "max_batch_size": 0,
            "input": [_in_config(INPUT)],
            "output": [_in_config(output) for output in OUTPUTS.values()],
        }

    @router.get("/v2/models/{name}/ready")
    @router.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> JSONResponse:
        """Whether a model can be asked."""
        file = await service.find(name, version)
        is_ready = service.is_ready and service.models.is_usable(file)
        return JSONResponse({"name": file.name, "ready": is_ready}, 200 if is_ready else 503)

    @router.post("/v2/models/{name}/infer", openapi_extra=_INFER)
    @router.post("/v2/models/{name}/versions/{version}/infer", openapi_extra=_INFER)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Judge images: the input `image`, UINT8 of shape (H, W, 3) or (N, H, W, 3), or BYTES of image files."""
        async with service.limits.admitted(request) as bounded:
            file = await service.find(name, version)
            return await _infer(service, bounded, file)

    return router


_INFER = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {}},
    }
}


async def _infer(service: Service, request: Request, file: ModelFile) -> Response:
    body = await request.body()
    encoding = request.headers.get("content-encoding")
    if encoding is not None:
        body = await asyncio.to_thread(unpacked, body, encoding, service)
    try:
        asked = await asyncio.to_thread(read_request, body, request.headers.get(_LENGTH))
    except SoftPatchError as error:
        raise RequestError(400, str(error)) from error
    del body
    refs = await asyncio.to_thread(_refs, asked, service)
    try:
        judged = await service.judged(request, file, refs, asked.threshold, drift=asked.drift)
    finally:
        await asyncio.to_thread(service.uploads.forget, refs)
    predictions = [each.answer for each in judged if isinstance(each.answer, Prediction)]
    for each in judged:
        if isinstance(each.answer, str):
            raise RequestError(400, f"{each.ref.name}: {each.answer}")
    content, length = await asyncio.to_thread(write_answer, asked, file.name, file.version, predictions)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={_LENGTH: str(length)})


def _refs(asked: InferRequest, service: Service) -> list[ImageRef]:
    if not isinstance(asked.images, list):
        return list(frame_refs(asked.images))
    return [service.uploads.keep(io.BytesIO(file), f"image {number}") for number, file in enumerate(asked.images)]


def unpacked(body: bytes, encoding: str, service: Service) -> bytes:
    """A body that was packed with gzip or deflate. Raises `RequestError` where it is too large or not whole."""
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, f"the body is packed with {encoding[:20]!r}; gzip and deflate are read")
    stream = zlib.decompressobj(wbits=47)  # either
    try:
        content = stream.decompress(body, service.limits.max_bytes)
    except zlib.error as error:
        raise RequestError(400, f"the body is not whole {encoding}: {error}") from error
    if stream.unconsumed_tail:
        raise service.limits.too_large()
    if not stream.eof:
        raise RequestError(400, f"the body is not whole {encoding}: it ends early")
    return content


def _in_config(tensor: dict[str, Any]) -> dict[str, Any]:
    return {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}", "dims": tensor["shape"]}
