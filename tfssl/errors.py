"""A user's mistake, told in one line; everything else keeps its traceback."""

import contextlib
import sys


class UserError(Exception):
    """What the user can mend: the message names the file, key or value and says what to do.

    `details` are lines printed before the message, one per bad file, so that all of them are named.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.details = tuple(details)


@contextlib.contextmanager
def named(path):
    """Put the name of a file before what is told of it, where there are several."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}", error.details) from None


def attempt(problems, function, *arguments, **named):
    """What the function returns; a UserError is added to the list `problems`, and the result is then None."""
    try:
        return function(*arguments, **named)
    except UserError as error:
        problems.append(error)


def raise_all(problems):
    """One UserError for all that were collected, with all their details; nothing if there are none."""
    if problems:
        details = [line for problem in problems for line in problem.details]
        raise UserError("; ".join(str(problem) for problem in problems), details)


def run(main, arguments=None):
    """Call main(arguments) as a command does: a UserError ends in one line on stderr and status 2."""
    try:
        main(arguments)
    except UserError as error:
        for line in error.details:
            print(f"  {line}", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
