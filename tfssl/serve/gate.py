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
        call = self._threads.submit(function, *arguments)
        call.add_done_callback(self._leave)
        return await asyncio.wrap_future(call)

    def _leave(self, _):
        with self._lock:
            self._inside -= 1

    def close(self):
        self._threads.shutdown(wait=False, cancel_futures=True)
