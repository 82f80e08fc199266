"""Files that become bad in the middle of a run: passed over and counted up to a limit, or the run stops.

A file is bad from a step on, which is written into the run's bad_files.csv. A batch is then a pure function of the
seed, its number and that list, so that a run that is continued sees the batches it would have seen.
"""

import csv
import math
import os
import sys
import threading

from tfssl.errors import UserError
from tfssl.tables import read_table

TABLE, COLUMNS = "bad_files.csv", ("step", "file", "problem")


class Faults:
    """since: {file: the step from which on it is passed over}. step: that of the run, for what is read beside training.

    Threads of tf.data report here. None of them raises an error, which TensorFlow would tell by a page: where the run
    must stop they go on with a stand-in, and the training loop asks by `refuse`, before anything is learned from it.
    """

    def __init__(self, on_bad_file="fail", limit=0):
        self.limit = limit if on_bad_file == "skip" else 0
        self.skips = on_bad_file == "skip"
        self.since, self.step, self.folder, self.writes, self.stopped = {}, 0, None, True, None
        self.problems, self.lock = {}, threading.Lock()

    def begin(self, folder, step=None, writes=True):
        """Keep the list in a run's folder: go on at a step with the one there, or begin a list. writes: whether what
        is found is written there too, as the first of several workers does alone."""
        self.folder, self.step, self.writes = folder, step or 0, writes
        if step is None and writes:
            (folder / TABLE).unlink(missing_ok=True)
        rows = [] if step is None else read_table(folder / TABLE)
        self.since = {row["file"]: int(row["step"]) for row in rows}
        self.problems = {row["file"]: row["problem"] for row in rows}

    def is_bad(self, file, step):
        return self.since.get(file, math.inf) <= step

    def found(self, file, problem, step):
        """A file cannot be used, as was found in making the batch of a step; a batch made anew is none of the past."""
        step = max(step, self.step)
        with self.lock:
            if self.stopped or self.is_bad(file, step):
                return
            known = file in self.since
            if not known and len(self.since) >= self.limit:
                self.stopped = UserError(self._why(file, problem, step))
                return
            self.since[file] = step  # or earlier than another thread found it
            self.problems.setdefault(file, problem)
            self._write()
            if not known:
                print(f"\nwarning: step {step}: {file} {problem}; passed over from here on ({len(self.since)} of "
                      f"{self.limit} that data.bad_files_limit allows)", file=sys.stderr, flush=True)  # fmt: skip

    def stop(self, problem):
        """There is nothing to pass over to."""
        with self.lock:
            self.stopped = self.stopped or UserError(problem)

    def refuse(self):
        """The UserError of a run that must not go on."""
        if self.stopped:
            raise self.stopped

    def _why(self, file, problem, step):
        kept = f"; the checkpoints in {self.folder} are kept" if self.folder else ""
        if not self.skips:
            return (f"step {step}: {file} {problem}{kept}; bring it back as it was and give the same command, or set "
                    'data.on_bad_file to "skip"')  # fmt: skip
        return (f"step {step}: {file} {problem}, and {len(self.since)} file(s) were passed over before (data."
                f"bad_files_limit {self.limit}){kept}; bring the files back as they were and give the same command, or "
                "raise the limit")  # fmt: skip

    def _write(self):
        """The list as a whole, at most as long as the limit."""
        if self.folder is None or not self.writes:
            return
        partial = self.folder / f".{TABLE}.partial"
        try:
            with open(partial, "w", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                rows.writerow(COLUMNS)
                rows.writerows((step, name, self.problems[name]) for name, step in self.since.items())
            os.replace(partial, self.folder / TABLE)
        except OSError as error:
            self.stopped = UserError(f"{self.folder / TABLE}: cannot be written ({error.strerror})")
