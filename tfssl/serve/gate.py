"""One door to the computing threads for both transports: so many calls at once, so many waiting, the rest sent away."""

import asyncio
import concurrent.futures
import threading

from tfssl.serve.refusals import Refusal


class Gate:
    def __init__(self, concurrency, queue):
        self._threads = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="call")
        self._most = concurrency + queue
        self._inside = 0
        self._lock = threading.Lock()

    async def run(self, function, *arguments):
        """What the function returns, computed in a thread; at once a refusal if there is no room to wait.

        A caller that is cancelled gives its place back if its call has not begun; one that has begun keeps its place
        until it ends, since it keeps its thread too.
        """
        with self._lock:
            if self._inside >= self._most:
                raise Refusal("UNAVAILABLE", "overloaded: as many calls wait as may wait; try again later")
            self._inside += 1
        # The pool keeps a cancelled call in its queue until a thread comes to it, and that call the error by which it
        # was cancelled, and that error all it has passed through. A request's bytes must not be among that.
        held = [function, *arguments]
        del function, arguments
        call = self._threads.submit(_call, held)
        call.add_done_callback(lambda _: self._leave(held))
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            raise asyncio.CancelledError from None

    def _leave(self, held):
        held.clear()
        with self._lock:
            self._inside -= 1

    def close(self):
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call(held):
    function, *arguments = held
    return function(*arguments)
