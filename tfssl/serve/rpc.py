"""The gRPC transport: PredictionService.Predict and GetModelMetadata, ModelService.GetModelStatus."""

import sys
import traceback

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2

from tfssl.serve import protobufs
from tfssl.serve.refusals import Refusal, invalid

SIGNATURES = "signature_def"  # the one field of metadata there is
IDENTITY_ONLY = 1  # packed messages are refused: gRPC unpacks without a limit
OK, UNKNOWN = 0, 2  # error codes of a version


def server(versions, gate, limits, address):
    """(grpc.aio server, its port) at an address like 127.0.0.1:8500; it is not started yet."""
    options = [
        ("grpc.max_receive_message_length", limits.body),
        ("grpc.max_send_message_length", -1),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ("grpc.max_concurrent_streams", 100),
    ]
    answers = Answers(versions, limits)

    async def at_once(function, content):
        return function(content)

    made = grpc.aio.server(options=options)
    services = {
        "PredictionService": {
            "Predict": _handler(gate.run, answers.predict),
            "GetModelMetadata": _handler(gate.run, answers.metadata),
            **{name: _handler(at_once, _not_offered) for name in ("Classify", "Regress", "MultiInference")},
        },
        "ModelService": {
            "GetModelStatus": _handler(at_once, answers.status),
            "HandleReloadConfigRequest": _handler(at_once, _not_offered),
        },
    }
    for name, methods in services.items():
        handlers = grpc.method_handlers_generic_handler(f"tensorflow.serving.{name}", methods)
        made.add_generic_rpc_handlers([handlers])
    return made, made.add_insecure_port(address)


def _handler(run, function):
    """A call's handler: bytes in, bytes out, so that messages are read and written where `run` runs the function.

    A refusal, bytes that are no message, or a mistake of ours becomes the call's status.
    """

    async def answer(content, context):
        try:
            return await run(function, content)
        except Refusal as refusal:
            await context.abort(grpc.StatusCode[refusal.code], str(refusal))
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request is no protobuf of its type ({error})")
        except Exception:
            traceback.print_exc(file=sys.stderr)
            await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its own output says why")

    return grpc.unary_unary_rpc_method_handler(answer)


def _not_offered(content):
    raise Refusal("UNIMPLEMENTED", "this server answers Predict, GetModelMetadata and GetModelStatus")


class Answers:
    """From a request's bytes to those of its response."""

    def __init__(self, versions, limits):
        self._versions, self._limits = versions, limits

    def predict(self, content):
        request = predict_pb2.PredictRequest.FromString(content)
        with self._versions.use(**asked(request, self._versions)) as model:
            signature, outputs = model.predict(request, self._limits)
            response = predict_pb2.PredictResponse(model_spec=spec(self._versions.name, model.number, signature))
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(protobufs.as_message(array))
        return response.SerializeToString()

    def metadata(self, content):
        request = get_model_metadata_pb2.GetModelMetadataRequest.FromString(content)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURES:
                raise invalid(f"Metadata field {field[:100]} is not supported")
        return metadata(self._versions, **asked(request, self._versions)).SerializeToString()

    def status(self, content):
        request = get_model_status_pb2.GetModelStatusRequest.FromString(content)
        return status(self._versions, **asked(request, self._versions)).SerializeToString()


def asked(request, versions):
    """{"number": ...} or {"label": ...} or {} of a request's model spec, which must name the model."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    versions.check_name(request.model_spec.name)
    choice = request.model_spec.WhichOneof("version_choice")
    if choice == "version":
        return {"number": request.model_spec.version.value}
    return {"label": request.model_spec.version_label} if choice else {}


def spec(name, number, signature=""):
    made = model_pb2.ModelSpec(name=name, signature_name=signature)
    made.version.value = number
    return made


def metadata(versions, **which):
    """GetModelMetadataResponse of a version."""
    with versions.use(**which) as model:
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=model.signatures)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=spec(versions.name, model.number))
    response.metadata[SIGNATURES].Pack(signatures)
    return response


def status(versions, **which):
    """GetModelStatusResponse of one version or of all."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state, error in versions.states(**which):
        row = response.model_version_status.add(version=number, state=state)
        row.status.error_code = UNKNOWN if error else OK
        row.status.error_message = error
    return response
