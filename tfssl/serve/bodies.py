"""Reading the body of an HTTP request: within a time, within a size, packed or not."""

import asyncio
import contextlib
import zlib

from starlette.requests import ClientDisconnect

from tfssl.serve.refusals import Refusal, invalid

GZIP = 31  # zlib's number for "a gzip header, and the largest window"
BODIES_AT_ONCE = 8  # so many full bodies are kept in memory; more clients than that must send smaller ones


class Bodies:
    """Reads bodies, and knows how many bytes of them are in memory."""

    def __init__(self, limits):
        self._limits = limits
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request):
        """(the body's bytes as sent, whether they are packed), counted as held until the context ends."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("gzip", "identity"):
            raise Refusal("INVALID_ARGUMENT", f"Content-Encoding {encoding!r} is not understood, gzip is", http=415)
        held = 0
        try:
            chunks = []
            async for chunk in self._chunks(request):
                chunks.append(chunk)
                held += len(chunk)
                self._held += len(chunk)
                if self._held > BODIES_AT_ONCE * self._limits.body:
                    raise Refusal("UNAVAILABLE", "overloaded: too many large requests at once; try again later")
            body = b"".join(chunks)
            del chunks
            yield body, encoding == "gzip"
        finally:
            self._held -= held

    async def _chunks(self, request):
        most, size = self._limits.body, 0
        try:
            async with asyncio.timeout(self._limits.timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= most:
                        yield chunk
                    elif size > 4 * most:  # up to here the rest is read, so that a client that only sends can hear us
                        break
        except TimeoutError:
            message = f"the body was not there within {self._limits.timeout:g} seconds"
            raise Refusal("DEADLINE_EXCEEDED", message, http=408) from None
        except ClientDisconnect:
            raise Refusal("CANCELLED", "the client hung up") from None
        if size > most:
            raise too_large(most)


def too_large(most):
    return Refusal("RESOURCE_EXHAUSTED", f"the body has more than {most} bytes (--body-bytes)", http=413)


def unpacked(body, most):
    """The content of a gzip body, of which never more than the limit is made."""
    unpacker = zlib.decompressobj(GZIP)
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise invalid(f"the body is not the gzip data that its Content-Encoding announces ({error})") from None
    if len(content) > most:
        raise too_large(most)
    if not unpacker.eof:
        raise invalid("the gzip body ends before its end")
    if unpacker.unused_data:
        raise invalid("the gzip body goes on after its end")
    return content
