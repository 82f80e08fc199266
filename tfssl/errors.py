"""A user's mistake, told in one line; everything else keeps its traceback."""

import sys


class UserError(Exception):
    """What the user can mend: the message names the file, key or value and says what to do.

    `details` are lines printed before the message, one per bad file, so that all of them are named.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.details = tuple(details)


def run(main, arguments=None):
    """Call main(arguments) as a command does: a UserError ends in one line on stderr and status 2."""
    try:
        main(arguments)
    except UserError as error:
        for line in error.details:
            print(f"  {line}", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
