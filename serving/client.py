"""Masks of images from TensorFlow Serving, or any server with its API, by REST or gRPC. One file, made to be copied.

It needs Python 3.10, numpy and pillow; gRPC also needs tensorflow-serving-api. From a program:

    with RestClient("http://127.0.0.1:8501", "segmentation") as client:
        [answer] = client.segment([Path("street.jpg").read_bytes()])
        answer.status, answer.mask.shape, answer.class_pixels

From a shell: python serving/client.py street.jpg --output predictions
writes street_mask.png (palette PNG, its indices the classes) and street_overlay.png, or street_output.png where the
network makes an image. Exit status: 0; 1 if an image failed; 2 if the server cannot be used.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

DEFAULT_URL = "http://127.0.0.1:8501"
DEFAULT_GRPC = "127.0.0.1:8500"
DEFAULT_SIGNATURE = "serving_default"
SIDES = "inputs", "outputs"


class ServingError(Exception):
    """What went wrong, in one line. code: the server's, an HTTP status or a gRPC name; None if no server answered."""

    def __init__(self, message: str, code: int | str | None = None):
        super().__init__(" ".join(message.split()))
        self.code = code


@dataclass(frozen=True)
class Answer:
    """What the server made of one image. Where it refused the image, status says why and everything else is None."""

    status: str
    mask: np.ndarray | None = None  # uint8 [H,W], classes
    colours: np.ndarray | None = None  # uint8 [H,W,3], the mask in the palette's colours
    class_pixels: np.ndarray | None = None  # int [C]
    output: np.ndarray | None = None  # uint8 [H,W,3], of a network whose output is an image

    @property
    def ok(self) -> bool:
        return self.status == "ok"


class Client:
    """What both protocols have in common. At most one of version (a number) and label; neither: the latest version."""

    def __init__(self, model: str = "segmentation", version: int | None = None, label: str | None = None,
                 timeout: float = 30.0):  # fmt: skip
        if version is not None and label is not None:
            raise ValueError("a version or a label, not both")
        self.model, self.version, self.label, self.timeout = model, version, label, timeout

    def status(self) -> dict[int, str]:
        """{version: state}; a version whose state is AVAILABLE answers."""
        raise NotImplementedError

    def metadata(self) -> dict[str, dict[str, dict[str, tuple[str, list[int] | None]]]]:
        """{signature: {"inputs" or "outputs": {name: (type, shape)}}}; -1 is any size, a shape of None any rank."""
        raise NotImplementedError

    def predict(self, inputs: Mapping[str, object], signature: str = DEFAULT_SIGNATURE) -> dict[str, object]:
        """Arrays, and lists of bytes for strings, by name; the same comes back."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def require_ready(self) -> None:
        """Raise a ServingError unless a version answers and takes images."""
        states = self.status()
        if "AVAILABLE" not in states.values():
            raise ServingError(f"model {self.model}: no version is available, only {states or 'none'}")
        inputs = self.metadata().get(DEFAULT_SIGNATURE, {}).get("inputs", {})
        if "image_bytes" not in inputs:
            raise ServingError(f"model {self.model}: {DEFAULT_SIGNATURE} takes {sorted(inputs)}, not image_bytes")

    def segment(self, images: Sequence[bytes]) -> list[Answer]:
        """One answer for each image, the content of a JPEG or PNG file; sizes may differ."""
        found = self.predict({"image_bytes": list(images)})
        if "output_png_bytes" in found:
            rows = zip(found["status"], found["output_png_bytes"], strict=True)
            return [_answer(status, output=output) for status, output in rows]
        names = "status", "mask_png_bytes", "color_png_bytes", "class_pixels"
        rows = zip(*(found[name] for name in names), strict=True)
        return [_answer(s, mask=m, colours=c, class_pixels=np.asarray(p)) for s, m, c, p in rows]


class RestClient(Client):
    """By HTTP and JSON, with the standard library. It keeps one connection, so each thread needs its own client."""

    def __init__(self, url: str = DEFAULT_URL, model: str = "segmentation", **options):
        super().__init__(model, **options)
        parts = urlsplit(url if "//" in url else f"http://{url}")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            self._connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=self.timeout)
        except (KeyError, ValueError, http.client.InvalidURL):
            raise ServingError(f"{url}: not an address such as {DEFAULT_URL}") from None
        self._server = f"{parts.scheme}://{parts.netloc}"
        self._place = f"{parts.path.rstrip('/')}/v1/models/{quote(model, safe='')}"
        if self.version is not None:
            self._place += f"/versions/{self.version}"
        elif self.label is not None:
            self._place += f"/labels/{quote(self.label, safe='')}"

    def status(self):
        rows = self._ask("GET", "")["model_version_status"]
        return {int(row["version"]): row["state"] for row in rows}

    def metadata(self):
        found = self._ask("GET", "/metadata")["metadata"]["signature_def"]["signature_def"]
        return {
            name: {side: {key: _described(value) for key, value in one.get(side, {}).items()} for side in SIDES}
            for name, one in found.items()
        }

    def predict(self, inputs, signature=DEFAULT_SIGNATURE):
        content = {"signature_name": signature, "inputs": {name: _to_json(value) for name, value in inputs.items()}}
        outputs = self._ask("POST", ":predict", json.dumps(content).encode())["outputs"]
        if not isinstance(outputs, dict):  # a single output comes without its name
            outputs = {next(iter(self.metadata()[signature]["outputs"])): outputs}
        return {name: _from_json(value) for name, value in outputs.items()}

    def close(self):
        self._connection.close()

    def _ask(self, method, place, body=None):
        kept = self._connection.sock is not None
        try:
            code, content = self._exchange(method, place, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            # A server may close a connection that was idle; asking once more is safe, a prediction changes nothing.
            if kept and isinstance(error, ConnectionError):
                return self._ask(method, place, body)
            code = "TIMEOUT" if isinstance(error, TimeoutError) else None
            told = error if str(error).isprintable() and str(error) else type(error).__name__
            raise ServingError(f"{self._server}: no answer by HTTP ({told})", code) from None
        try:
            found = json.loads(content)
        except ValueError:
            raise ServingError(f"{self._server}: status {code}, not in JSON: {content[:80]!r}", code) from None
        if code != 200:
            told = found.get("error", found) if isinstance(found, dict) else found
            raise ServingError(f"model {self.model}: {told} (status {code})", code)
        return found

    def _exchange(self, method, place, body):
        headers = {"Content-Type": "application/json"} if body else {}
        # A server that refuses a large body answers and hangs up before it has read it all.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request(method, self._place + place, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


class GrpcClient(Client):
    """By gRPC, with the stubs of tensorflow-serving-api, which imports TensorFlow: the first use takes seconds."""

    def __init__(self, address: str = DEFAULT_GRPC, model: str = "segmentation", **options):
        super().__init__(model, **options)
        try:
            import grpc
            import tensorflow
            from tensorflow.core.framework.types_pb2 import DataType
            from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_messages
            from tensorflow_serving.apis import get_model_status_pb2 as status_messages
            from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ServingError(f"gRPC needs `pip install tensorflow-serving-api` ({error})") from None
        self._error, self._tensorflow, self._type, self._server = grpc.RpcError, tensorflow, DataType, address
        self._status, self._metadata, self._request = status_messages, metadata_messages, predict_pb2.PredictRequest
        # gRPC refuses answers over 4 MB by default: masks fit, the logits of an image do not.
        limits = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        self._channel = grpc.insecure_channel(address, limits)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def status(self):
        found = self._ask(self._models.GetModelStatus, self._status.GetModelStatusRequest())
        name = self._status.ModelVersionStatus.State.Name
        return {row.version: name(row.state) for row in found.model_version_status}

    def metadata(self):
        request = self._metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        found = self._ask(self._predictions.GetModelMetadata, request)
        signatures = self._metadata.SignatureDefMap()
        found.metadata["signature_def"].Unpack(signatures)
        return {
            name: {side: {key: self._described(value) for key, value in getattr(one, side).items()} for side in SIDES}
            for name, one in signatures.signature_def.items()
        }

    def predict(self, inputs, signature=DEFAULT_SIGNATURE):
        request = self._request(model_spec={"signature_name": signature})
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(self._tensorflow.make_tensor_proto(value))
        found = self._ask(self._predictions.Predict, request).outputs
        arrays = {name: self._tensorflow.make_ndarray(value) for name, value in found.items()}
        return {name: array.tolist() if array.dtype == object else array for name, array in arrays.items()}

    def close(self):
        self._channel.close()

    def _described(self, tensor):
        shape = None if tensor.tensor_shape.unknown_rank else [size.size for size in tensor.tensor_shape.dim]
        return self._type.Name(tensor.dtype), shape

    def _ask(self, function, request):
        request.model_spec.name = self.model
        if self.version is not None:
            request.model_spec.version.value = self.version
        elif self.label is not None:
            request.model_spec.version_label = self.label
        try:
            return function(request, timeout=self.timeout)
        except self._error as error:
            code, told = error.code().name, error.details()
            # What gRPC itself says when nobody listens; a server that is merely full says UNAVAILABLE in its own words.
            if code == "UNAVAILABLE" and "failed to connect" in told:
                raise ServingError(f"{self._server}: no answer ({told})") from None
            raise ServingError(f"model {self.model}: {told} ({code})", code) from None


def _to_json(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value):
    """An array; of strings a list of bytes, which JSON has in base 64 where the name ends in _bytes."""
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    return _bytes_of(value) if isinstance(first, str | dict) else np.asarray(value)


def _bytes_of(value):
    if isinstance(value, list):
        return [_bytes_of(item) for item in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()


def _described(tensor):
    """(type, shape) of a tensor in the metadata of REST, whose whole numbers are strings."""
    shape = tensor.get("tensor_shape", {})
    return tensor["dtype"], None if shape.get("unknown_rank") else [int(size["size"]) for size in shape.get("dim", [])]


def _answer(status, class_pixels=None, **pictures):
    status = status.decode(errors="replace")
    if status != "ok":
        return Answer(status)
    decoded = {name: np.asarray(Image.open(io.BytesIO(content))) for name, content in pictures.items()}
    return Answer(status, class_pixels=class_pixels, **decoded)


def palette_of(answer: Answer) -> list[list[int]]:
    """The colour of each class; black for those that the image does not have."""
    palette = np.zeros([int(answer.mask.max()) + 1, 3], np.uint8)
    palette[answer.mask] = answer.colours
    return palette.tolist()


def write(answer: Answer, image: bytes, folder: Path, name: str) -> list[Path]:
    """folder/NAME_mask.png and NAME_overlay.png, or NAME_output.png; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if answer.output is not None:
        pictures = {"output": Image.fromarray(answer.output)}
    else:
        mask = Image.fromarray(answer.mask)
        mask.putpalette(np.asarray(palette_of(answer), np.uint8).tobytes())
        with Image.open(io.BytesIO(image)) as picture:
            overlay = Image.blend(_rgb(picture), Image.fromarray(answer.colours), 0.5)
        pictures = {"mask": mask, "overlay": overlay}
    paths = {what: folder / f"{name}_{what}.png" for what in pictures}
    for what, picture in pictures.items():
        picture.save(paths[what])
    return list(paths.values())


def _rgb(picture):
    """As the server reads it: of 16 bits the upper 8, transparency ignored."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray(np.uint8(np.asarray(picture) >> 8))
    return picture.convert("RGB")


def _shares(answer, classes):
    """Like "road 71.2 %, sky 20.0 %": classes by their share, those under 0.05 % left out."""
    if answer.class_pixels is None:
        return "image"
    shares = 100 * answer.class_pixels / max(1, answer.class_pixels.sum())
    order = [number for number in np.argsort(-shares, kind="stable") if shares[number] >= 0.05]
    return ", ".join(f"{classes[n] if n < len(classes) else f'class {n}'} {shares[n]:.1f} %" for n in order)


def _names(paths):
    """{path: a name of its own for what is written}: its stem, with its folder's name where it is taken."""
    names = {}
    for path in dict.fromkeys(paths):
        name = path.stem if path.stem not in names.values() else f"{path.resolve().parent.name}_{path.stem}"
        while name in names.values():
            name += "_"
        names[path] = name
    return names


def _one(client, path, name, folder, classes):
    """Segment one file and print a line; False, with a line on stderr, if that cannot be."""
    try:
        content = path.read_bytes()
        [answer] = client.segment([content])
        if not answer.ok:
            raise ServingError(f"the server refused it: {answer.status}", answer.status)
        written = write(answer, content, folder, name)
    except (OSError, ServingError) as error:
        if isinstance(error, ServingError) and error.code is None:
            raise
        print(f"{path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return False
    print(f"{path}: {_shares(answer, classes)} -> {', '.join(str(place) for place in written)}")
    return True


def connect(given) -> Client:
    """The client that the command's arguments ask for."""
    options = {"model": given.model, "version": given.version, "label": given.label, "timeout": given.timeout}
    return GrpcClient(given.grpc, **options) if given.grpc else RestClient(given.url, **options)


def add_server_arguments(parser) -> None:
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--url", default=DEFAULT_URL, help="REST address (default: %(default)s)")
    server.add_argument("--grpc", metavar="HOST:PORT", help=f"gRPC instead, such as {DEFAULT_GRPC}")
    parser.add_argument("--model", default="segmentation", help="the model's name (default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=int, help="the model's version (default: the latest)")
    which.add_argument("--label", help="the version with this label")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for one request (default: %(default)s)")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG or PNG files")
    add_server_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder (default: %(default)s)")
    parser.add_argument("--about", type=Path, metavar="MODEL_JSON",
                        help="assets/model.json of the export, for the names of the classes")  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        classes = json.loads(given.about.read_text(encoding="utf-8"))["classes"] if given.about else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {given.about}: not the model.json of an export ({error})", file=sys.stderr)
        return 2
    try:
        with connect(given) as client:
            client.require_ready()
            done = [_one(client, path, name, given.output, classes) for path, name in _names(given.images).items()]
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
