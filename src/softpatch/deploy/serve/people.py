"""The routes for people and plain programs, `/v1`: images in as files, a table's rows or pictures out."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.datastructures import UploadFile

from softpatch.config import choose_from
from softpatch.data.image_bounds import bounded
from softpatch.data.images import ImageRef
from softpatch.deploy.serve.batching import Judged
from softpatch.deploy.serve.catalogue import ModelFile
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.deploy.serve.service import Service, given_threshold
from softpatch.deploy.serve.uploads import MOST_IMAGES
from softpatch.errors import InputError
from softpatch.results import Prediction
from softpatch.review.drift import summary_of
from softpatch.review.pictures import save_map, save_overlay
from softpatch.review.small_pictures import small_heat
from softpatch.scoring.drift import Drift

JSON, TIFF, PNG = "application/json", "image/tiff", "image/png"
KINDS = (JSON, PNG, TIFF)
"""What may be asked for by `Accept`, the first where nothing is."""
PICTURES = ("overlay", "map")
THRESHOLD_VALUE = 10_000
"""The value of the map threshold in a map as PNG, whose values go up to 65535."""
_MOST_REGIONS = 100


def routes(service: Service) -> APIRouter:
    """Models, and predictions of them."""
    router = APIRouter(tags=["For people"], dependencies=[Depends(check_parameters)])

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models by name, each with its versions, the one that is used last."""
        found = await asyncio.to_thread(service.models.catalogue)
        return {"models": [{"name": name, "versions": [str(each) for each in found[name]]} for name in found]}

    @router.get("/v1/models/{name}/drift")
    async def drift(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether the images that a model judged have changed; null where none of them counts yet, or it cannot say."""
        file = await service.find(name, version)
        found = await asyncio.to_thread(service.drifts.current)
        return {"model": file.name, "version": str(file.version), "drift": _drift(found.get(file.key))}

    @router.post("/v1/predict", openapi_extra=_PREDICT)
    @router.post("/v1/models/{name}/predict", openapi_extra=_PREDICT)
    async def predict(
        request: Request,
        name: str | None = None,
        model: str | None = None,
        version: str | None = None,
        threshold: str | None = None,
        picture: str = PICTURES[0],
        details: bool = False,
        drift: bool = True,
    ) -> Response:
        """Judge the images of a form, or one image as it is: rows in JSON, or the map or the overlay of one image.

        `picture` says whether a PNG is the overlay or the map, and `details` adds regions and the heat map to JSON.
        Without `drift` the images do not count among those whose change is told.
        """
        kind = accepted(request.headers.get("accept", "*/*"))
        if picture not in PICTURES:
            raise RequestError(400, f"the picture is {picture[:20]!r}; it must be {' or '.join(PICTURES)}")
        value = given_threshold(threshold)
        async with service.limits.admitted(request) as bounded, _images(service, bounded) as refs:
            file = await service.find(name or model, version)
            if kind != JSON and len(refs) != 1:
                raise RequestError(406, f"{kind} shows one image; {len(refs)} were sent")
            judged = await service.judged(request, file, refs, value, drift=drift)
            if kind == JSON:
                return await asyncio.to_thread(_rows, file, judged, details)
            return await asyncio.to_thread(_picture, service, judged[0], kind, picture)

    return router


def check_parameters(request: Request) -> None:
    """Raise `RequestError` for a parameter in the address that the route does not have."""
    known = [each.alias for each in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            choice = choose_from(name, known) if known else "this address takes none"
            raise RequestError(400, f"the parameter {name[:40]!r} is unknown; {choice}")


_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_PREDICT = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _FILES}}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {"200": {"description": "Rows, a map or an overlay", "content": {kind: {} for kind in KINDS}}},
}


def accepted(header: str) -> str:
    """Which of `KINDS` an Accept header prefers. Raises `RequestError` where it takes none of them.

    >>> accepted("image/png;q=0.5, image/tiff")
    'image/tiff'
    """
    best, chosen = 0.0, None
    for part in header.split(","):
        wanted, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [word[2:] for word in parameters if word.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            weight = 0.0
        main, _, sub = wanted.partition("/")
        matching = [kind for kind in KINDS if wanted in ("*/*", kind) or (sub == "*" and kind.startswith(f"{main}/"))]
        if matching and weight > best:
            best, chosen = weight, matching[0]
    if chosen is None:
        raise RequestError(406, f"Accept is {header[:60]!r}; answers are {', '.join(KINDS)}")
    return chosen


@asynccontextmanager
async def _images(service: Service, request: Request) -> AsyncIterator[list[ImageRef]]:
    """The images of a form, or the body as one, kept while the block runs."""
    refs: list[ImageRef] = []
    try:
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            async with request.form(max_files=MOST_IMAGES, max_fields=10, max_part_size=10_000) as form:
                for _, part in form.multi_items():
                    if isinstance(part, UploadFile):
                        refs.append(await _keep(service, part.file, part.filename or ""))
        else:
            body = await request.body()
            if body:
                refs.append(await _keep(service, io.BytesIO(body), "image"))
        if not refs:
            raise RequestError(400, "the request has no image; send an image file as its body, or files in a form")
        yield refs
    finally:
        await asyncio.to_thread(service.uploads.forget, refs)


async def _keep(service: Service, content: Any, name: str) -> ImageRef:
    try:
        return await asyncio.to_thread(service.uploads.keep, content, name)
    except InputError as error:
        raise RequestError(503, str(error), retry_after=5) from error


def _rows(file: ModelFile, judged: list[Judged], details: bool) -> JSONResponse:
    """A row per image as `Prediction.as_dict` gives it, or its name and the error. A client error where all are."""
    rows: list[dict[str, Any]] = []
    for each in judged:
        if isinstance(each.answer, str):
            rows.append({"path": each.ref.name, "error": each.answer})
        else:
            with bounded(each.answer.width, each.answer.height):  # masks of the largest images take turns
                rows.append(each.answer.as_dict() | (_details(each.answer) if details else {}))
    if all("error" in row for row in rows):
        names = "" if len(rows) == 1 else f", and so are the other {len(rows) - 1}"
        raise RequestError(400, f"{rows[0]['path']} cannot be judged: {rows[0]['error']}{names}")
    return JSONResponse({"model": file.name, "version": str(file.version), "images": rows})


def _drift(drift: Drift | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    alarm = None if drift.alarm is None else {**asdict(drift.alarm), "sentence": drift.sentence}
    return {**summary_of(drift), "alarm": alarm}


def _details(prediction: Prediction) -> dict[str, Any]:
    """What the page shows beside a row: regions, highest first, and the heat map as a picture to lay over the image."""
    heat = small_heat(prediction)
    regions = [
        {"box": region.box, "area": region.area, "peak": round(region.peak, 6)}
        for region in prediction.regions()[:_MOST_REGIONS]
    ]
    return {"regions": regions, "heat": None if heat is None else _data_url(heat)}


def _data_url(png: bytes) -> str:
    return f"data:{PNG};base64,{base64.b64encode(png).decode()}"


def _picture(service: Service, judged: Judged, kind: str, picture: str) -> Response:
    """The map as a float TIFF or a PNG, or the overlay, of one image."""
    prediction = judged.answer
    if isinstance(prediction, str):
        raise RequestError(400, f"{judged.ref.name} cannot be judged: {prediction}")
    headers = {"X-Image-Score": f"{prediction.image_score:.6f}", "X-Verdict": prediction.verdict}
    with bounded(prediction.width, prediction.height):
        if kind == TIFF:
            content = _written(service, ".tiff", lambda path: save_map(prediction, path))
        elif picture == "map":
            content = map_as_png(prediction)
        else:
            content = _written(service, ".png", lambda path: save_overlay(judged.ref.read(), prediction, path))
    return Response(content, media_type=kind, headers=headers)


def map_as_png(prediction: Prediction) -> bytes:
    """The anomaly map at the original size as a grey PNG of 16 bits: 10,000 is the map threshold.

    What is not looked at is 0.
    """
    scaled = np.nan_to_num(prediction.map_at_original_size()) * (THRESHOLD_VALUE / max(prediction.map_threshold, 1e-12))
    file = io.BytesIO()
    Image.fromarray(np.rint(scaled.clip(0, 65535)).astype(np.uint16)).save(file, format="PNG")
    return file.getvalue()


def _written(service: Service, suffix: str, write: Callable[[Path], None]) -> bytes:
    """What a function writes to a path."""
    path = service.uploads.path(suffix)
    try:
        write(path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
