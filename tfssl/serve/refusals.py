"""What the server will not do, with the code that both transports know."""

import re

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
LONGEST_MESSAGE = 1000  # gRPC carries it in a header, whose size is limited
_STACK = re.compile(r"Graph execution error|Detected at node|File \"|<stack traces|\[\[\{\{node|Original stack trace")


class Refusal(Exception):
    """A request that is answered with an error: `code` is a gRPC code's name, `http` its HTTP status."""

    def __init__(self, code, message, http=None):
        super().__init__(message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 4] + " ...")
        self.code = code
        self.http = http or HTTP_STATUS.get(code, 500)


def invalid(message):
    return Refusal("INVALID_ARGUMENT", message)


def of_tensorflow(error):
    """The refusal for a tf.errors.OpError: its code, and its message without the graph's stack."""
    code = type(error).__name__.removesuffix("Error")
    code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).upper()
    lines = [line.strip() for line in error.message.splitlines()]
    told = "; ".join(line for line in lines if line and not _STACK.match(line))
    return Refusal(code if code in HTTP_STATUS else "INTERNAL", re.sub(r" \[Op:\w+\]", "", told))
