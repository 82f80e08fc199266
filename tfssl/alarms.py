"""Faults that a run can have without failing, told in plain words while it runs, each once."""

import sys

from tfssl.tables import Table

PATIENCE = 10  # rows of the history in which a term is exactly 0 before that is told
EQUAL = 1e-4  # total variation between two networks below which they are one


class Alarms:
    """alarms.csv of a run folder: step, kind, text.

    A resumed run at `step` tells again only what came later, and is given the rows of its history up to there again.
    """

    def __init__(self, path, step=0):
        self.table, self.zero_since = Table(path, ("step", "kind", "text"), step), {}
        self.told = {row["kind"] for row in self.table.rows}

    def tell(self, step, kind, text):
        if kind not in self.told:
            self.told.add(kind)
            print(f"alarm at step {step}: {text}", file=sys.stderr, flush=True)
            self.table.add({"step": step, "kind": kind, "text": text})

    def after_row(self, step, terms):
        """terms: {name: mean since the last row} of the terms that take part in this phase."""
        for name in [name for name in self.zero_since if terms.get(name) != 0]:
            del self.zero_since[name]
        for name, value in terms.items():
            if value == 0:
                self.zero_since[name] = self.zero_since.get(name, 0) + 1
                if self.zero_since[name] == PATIENCE:
                    self.tell(step, f"zero {name}", f"the term {name} was exactly 0 in the last {PATIENCE} rows: it "
                              "teaches nothing; look at its threshold, weight and start")  # fmt: skip

    def after_evaluation(self, step, collapsed, coupling=None):
        """collapsed: {what: the only class in it, or None}; coupling: total variation between two networks."""
        if coupling is not None and coupling < EQUAL:
            self.tell(step, "equal networks", f"two networks say the same (total variation {coupling:.1e}): they teach "
                      "each other nothing more; give them more noise, or other starts")  # fmt: skip
        for what, name in collapsed.items():
            if name is not None:
                self.tell(step, f"one class in {what}", f"of {what} nearly all pixels are {name!r}: training has "
                          "collapsed; look at the learning rate and at the unlabeled terms")  # fmt: skip
