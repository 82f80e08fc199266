"""Serve one model directory with TensorFlow Serving's REST and gRPC API: clients can be tried without a container.

It is a development server: for production there is TensorFlow Serving itself, with the same API and folders. It listens
on this machine only unless --host says otherwise, and has a page at / on which a picture can be tried out.
"""

import argparse
import asyncio
import os
from pathlib import Path

from tfssl import errors
from tfssl.errors import UserError
from tfssl.serve.addresses import bound
from tfssl.serve.folders import base_of
from tfssl.serve.limits import Limits


def main(arguments=None):
    options = parser().parse_args(arguments)
    base = base_of(Path(options.export))
    labels = dict(map(label, options.label))
    listener = bound(options.host, options.rest_port)
    limits = Limits(body=options.body_bytes, json_depth=options.json_depth, pixels=options.pixels,
                    concurrency=options.concurrency, queue=options.queue, timeout=options.timeout)  # fmt: skip
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfssl.serve import server  # TensorFlow takes seconds to import; --help and mistakes do not wait for it
    from tfssl.serve.versions import Versions

    versions = Versions(base, options.name, labels)
    asyncio.run(server.serve(versions, limits, options.host, listener, options.grpc_port, options.poll))


def parser():
    made = argparse.ArgumentParser(prog="python -m tfssl.serve", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("export", metavar="EXPORT", help="a folder of numeric version folders, or a run or its export/")
    made.add_argument("--name", default="segmentation", help="the model's name in requests (default: %(default)s)")
    made.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    made.add_argument("--rest-port", type=port, default=8501, help="0: any free one (default: %(default)s)")
    made.add_argument("--grpc-port", type=port, default=8500, help="0: any free one (default: %(default)s)")
    made.add_argument("--label", action="append", default=[], metavar="NAME=VERSION",
                      help="a name for a version, which then stays loaded; may be given several times")  # fmt: skip
    made.add_argument("--poll", type=seconds, default=2.0,
                      help="seconds between looks at the folder (default: %(default)s)")  # fmt: skip
    limits = made.add_argument_group("limits")
    limits.add_argument("--body-bytes", type=whole, default=Limits.body,
                        help="of a request, unpacked too (default: %(default)s)")  # fmt: skip
    limits.add_argument("--json-depth", type=depth, default=Limits.json_depth,
                        help="of nested lists and objects (default: %(default)s)")  # fmt: skip
    limits.add_argument("--pixels", type=whole, default=Limits.pixels,
                        help="of all images of a request together (default: %(default)s)")  # fmt: skip
    limits.add_argument("--concurrency", type=whole, default=Limits.concurrency,
                        help="calls computed at once (default: the number of cores, %(default)s)")  # fmt: skip
    limits.add_argument("--queue", type=natural, default=Limits.queue,
                        help="calls that wait; more are refused (default: %(default)s)")  # fmt: skip
    limits.add_argument("--timeout", type=seconds, default=Limits.timeout,
                        help="seconds for headers, and for a body, to arrive (default: %(default)s)")  # fmt: skip
    return made


def label(text):
    name, _, number = text.rpartition("=")
    if not name or not (number.isascii() and number.isdecimal()):
        raise UserError(f"--label {text}: write NAME=VERSION, as stable=1")
    return name, int(number)


def _number(kind, least, most, wanted):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


port = _number(int, 0, 65535, "a port from 0 to 65535")
whole = _number(int, 1, (1 << 31) - 1, "a whole number from 1 on")
natural = _number(int, 0, 100_000, "a whole number from 0 to 100000")
depth = _number(int, 1, 500, "a whole number from 1 to 500")
seconds = _number(float, 0.05, 86_400, "a number of seconds from 0.05 on")


if __name__ == "__main__":
    errors.run(main)
