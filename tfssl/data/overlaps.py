"""Images that stand in more than one set, or more than once in one."""

import sys
from collections import Counter

from tfssl.errors import UserError

TRAINING, EVALUATION = ("labeled", "unlabeled"), ("validation", "test")


def refuse_overlaps(sets):
    """No image is trained on and evaluated on; none of the held-out ones has its label shown in training.

    sets: {name: {what an image is: what it is called}}.
    """
    forbidden = [(one, other) for one in TRAINING for other in EVALUATION] + [("labeled", "held_out")]
    shared = []
    for one, other in forbidden:
        both = [name for image, name in sets.get(other, {}).items() if image in sets.get(one, {})]
        shared += [f"{name}: in data.{one} and data.{other}" for name in both]
    if shared:
        raise UserError("training and evaluation share the images named above; take them out of one", shared)


def warn_of_duplicates(sets):
    """Published lists do hold duplicates, and training bears them: they only count more often."""
    for name, pairs in sets.items():
        times = Counter(pair.image for pair in pairs)
        repeated = {pair.image: pair.name for pair in pairs if times[pair.image] > 1}
        if repeated:
            print(f"warning: data.{name} names more than once: {', '.join(repeated.values())}", file=sys.stderr)
