"""The gRPC transport: PredictionService.Predict and GetModelMetadata, ModelService.GetModelStatus."""

import sys
import traceback

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

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
    made = grpc.aio.server(options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(versions, gate, limits), made)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(versions), made)
    return made, made.add_insecure_port(address)


async def _answered(context, function, *arguments):
    """What the coroutine returns; a refusal, or a mistake of ours, becomes the call's status."""
    try:
        return await function(*arguments)
    except Refusal as refusal:
        await context.abort(grpc.StatusCode[refusal.code], str(refusal))
    except Exception:
        traceback.print_exc(file=sys.stderr)
        await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its own output says why")


async def _not_offered(self, request, context):
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server answers Predict, GetModelMetadata, GetModelStatus")


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """An export has no signatures that classify or regress examples."""

    Classify = Regress = MultiInference = _not_offered

    def __init__(self, versions, gate, limits):
        self._versions, self._gate, self._limits = versions, gate, limits

    async def Predict(self, request, context):
        return await _answered(context, self._gate.run, self._predict, request)

    async def GetModelMetadata(self, request, context):
        return await _answered(context, self._gate.run, self._metadata, request)

    def _predict(self, request):
        with self._versions.use(**asked(request, self._versions)) as model:
            signature, outputs = model.predict(request, self._limits)
            response = predict_pb2.PredictResponse(model_spec=spec(self._versions.name, model.number, signature))
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(protobufs.as_message(array))
        return response

    def _metadata(self, request):
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURES:
                raise invalid(f"Metadata field {field[:100]} is not supported")
        return metadata(self._versions, **asked(request, self._versions))


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Which versions there are, and how they are; what the server serves is not changed over the network."""

    HandleReloadConfigRequest = _not_offered

    def __init__(self, versions):
        self._versions = versions

    async def GetModelStatus(self, request, context):
        return await _answered(context, self._status, request)

    async def _status(self, request):
        return status(self._versions, **asked(request, self._versions))


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
