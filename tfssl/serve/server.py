"""Both transports in one event loop, from the first address to the last answer."""

import asyncio
import contextlib
import signal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tfssl.errors import UserError
from tfssl.serve import rpc
from tfssl.serve.addresses import LOOPBACK, written
from tfssl.serve.gate import Gate
from tfssl.serve.rest import Rest

DRAIN = 10  # seconds that calls in flight are given at the end
CONNECTIONS = 500
HEADER_BYTES = 65536


class _Server(uvicorn.Server):
    """Leaves signals to us, since two servers end together."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


def protocol(timeout):
    """uvicorn's HTTP protocol, which hangs up on a client that does not send its headers in time."""

    class Impatient(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self._deadline = self.loop.call_later(timeout, self._hang_up)

        def handle_events(self):
            before = self.cycle
            super().handle_events()
            if self.cycle is not before:
                self._deadline.cancel()

        def on_response_complete(self):
            self._deadline.cancel()
            self._deadline = self.loop.call_later(timeout, self._hang_up)
            super().on_response_complete()

        def connection_lost(self, exc):
            self._deadline.cancel()
            super().connection_lost(exc)

        def _hang_up(self):
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Impatient


def _signalled():
    """An event for the first signal that asks for the end; a second one ends the process at once."""
    ended, loop, numbers = asyncio.Event(), asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def end():
        ended.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, end)
    return ended


async def serve(versions, limits, host, listener, grpc_port, interval):
    """Load, serve until a signal ends it, and drain; prints one line when both transports answer."""
    ended = _signalled()
    gate = Gate(limits.concurrency, limits.queue)
    try:
        remote, grpc_port = rpc.server(versions, gate, limits, written(host, grpc_port))
    except RuntimeError:
        raise UserError(f"--host {host} --grpc-port {grpc_port}: cannot be used, perhaps it is taken") from None
    try:
        await asyncio.to_thread(versions.start, interval)
    except UserError:
        await remote.stop(None)
        raise
    rest = Rest(versions, gate, limits, guarded=host in LOOPBACK)
    settings = uvicorn.Config(
        rest.application(), http=protocol(limits.timeout), ws="none", lifespan="off", loop="asyncio", access_log=False,
        log_level="error", proxy_headers=False, server_header=False, limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=DRAIN,
    )  # fmt: skip
    http = _Server(settings)
    await remote.start()
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    while not http.started and not serving.done():
        await asyncio.sleep(0.01)
    port = listener.getsockname()[1]
    print(f"ready: model {versions.name}, REST and page http://{written(host, port)}, "
          f"gRPC {written(host, grpc_port)}", flush=True)  # fmt: skip
    await asyncio.wait([asyncio.create_task(ended.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
    http.should_exit = True
    await asyncio.gather(remote.stop(DRAIN), serving)
    versions.stop()
    gate.close()
