"""The REST transport: predict, status and metadata as TensorFlow Serving has them, and the page."""

import base64
import hashlib
import json
import re
import sys
import traceback
from importlib import resources
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2

from tfssl.serve import rpc, tensors
from tfssl.serve.addresses import LOOPBACK
from tfssl.serve.bodies import Bodies, unpacked
from tfssl.serve.refusals import Refusal, invalid

_MODEL = r"/v1/models/([^/:]+)(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_CALL = re.compile(_MODEL + r":([a-z]+)", re.IGNORECASE)
_RESOURCE = re.compile(_MODEL + r"(/metadata)?", re.IGNORECASE)
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]


class Rest:
    """The application; `guarded`: it listens on this machine only, so requests must name this machine."""

    def __init__(self, versions, gate, limits, guarded):
        self._versions, self._gate, self._limits, self._guarded = versions, gate, limits, guarded
        self._bodies = Bodies(limits)
        self._page, self._policy = page()

    def application(self):
        routes = [
            Route("/", self._answering(self._show), methods=["GET"]),
            Route("/model.json", self._answering(self._facts), methods=["GET"]),
            Route("/v1/{rest:path}", self._answering(self._api), methods=METHODS),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _not_here})

    def _answering(self, endpoint):
        async def answer(request):
            try:
                self._check_origin(request)
                return await endpoint(request)
            except Refusal as refusal:
                return failed(refusal.http, str(refusal))
            except Exception:
                traceback.print_exc(file=sys.stderr)
                return failed(500, "the server failed; its own output says why")

        return answer

    def _check_origin(self, request):
        """A page of another site, open in a browser on this machine, must not be able to use the server."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self._guarded and _parts(host).hostname not in LOOPBACK:
            raise Refusal("PERMISSION_DENIED", f"the Host header names {host[:100]!r}, not this machine")
        if origin is not None and _parts(origin.partition("://")[2]).netloc != host:
            raise Refusal("PERMISSION_DENIED", f"requests of pages from {origin[:100]!r} are not answered")

    async def _show(self, request):
        headers = {"Content-Security-Policy": self._policy, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(self._page, headers={**headers, "Referrer-Policy": "no-referrer"})

    async def _facts(self, request):
        with self._versions.use() as model:
            return JSONResponse({**model.facts, "model": self._versions.name, "version": model.number})

    async def _api(self, request):
        path = request.scope["raw_path"].decode("ascii", "replace")
        for pattern, allowed, handler in (_CALL, "POST", self._call), (_RESOURCE, "GET", self._resource):
            match = pattern.fullmatch(path)
            if match:
                if request.method != allowed:
                    response = failed(405, f"{request.method} is not for this address, {allowed} is")
                    response.headers["Allow"] = allowed
                    return response
                name, number, label, what = match.groups()
                return await handler(request, self._which(name, number, label), (what or "").lower())
        raise invalid(f"Malformed request: {request.method} {path[:200]}")

    def _which(self, name, number, label):
        self._versions.check_name(unquote(name))
        if number is not None:
            if int(number[:20]) >= 1 << 63:
                raise invalid(f"Failed to convert version: {number[:20]} to numeric.")
            return {"number": int(number[:20])}
        return {} if label is None else {"label": unquote(label)}

    async def _call(self, request, which, method):
        if method in ("classify", "regress"):
            raise invalid(f"Expected {method} signature method_name to be tensorflow/serving/{method}. "
                          "Was: tensorflow/serving/predict; ask with :predict")  # fmt: skip
        if method != "predict":
            raise invalid(f"Malformed request: no method {method[:100]!r}; there is :predict")
        async with self._bodies.read(request) as (body, packed):
            content = await self._gate.run(self._predict, body, packed, which)
        return Response(content, media_type="application/json")

    def _predict(self, body, packed, which):
        if packed:
            body = unpacked(body, self._limits.body)
        content = tensors.read_request(body, self._limits.json_depth)
        with self._versions.use(**which) as model:
            signature = model.signature(content.get("signature_name"))
            inputs = tensors.inputs_of(content, model.array_types(signature))
            outputs = model.call(signature, inputs, self._limits.pixels)
        return tensors.written(outputs, "instances" in content)

    async def _resource(self, request, which, what):
        if what:
            return _message(metadata_json(rpc.metadata(self._versions, **which)))
        return _message(as_json(rpc.status(self._versions, **which)))


def _parts(host):
    try:
        return urlsplit(f"//{host}")
    except ValueError:  # brackets that do not match
        return urlsplit("//")


def as_json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True,
                                     always_print_fields_with_no_presence=True)  # fmt: skip


def metadata_json(response):
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[rpc.SIGNATURES].Unpack(signatures)
    return {"model_spec": as_json(response.model_spec), "metadata": {rpc.SIGNATURES: as_json(signatures)}}


def _message(content):
    return Response(json.dumps(content, indent=1) + "\n", media_type="application/json")


def failed(status, message):
    """An error; the connection ends where more of the request may be on its way than anyone wants to read."""
    return JSONResponse({"error": message}, status, headers={"Connection": "close"} if status in (408, 413) else None)


async def _not_here(request, error):
    return failed(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}")


def page():
    """(HTML, Content-Security-Policy): what the page runs and how it looks is in it, and nothing else may be added."""
    text = resources.files("tfssl.serve").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {}
    for tag in "script", "style":
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        hashes[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return text, (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
