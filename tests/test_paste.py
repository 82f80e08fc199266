"""mix "paste" in every method that has it: half of the classes of labeled images lie on the unlabeled ones."""

import inspect
import typing

import numpy as np
import pytest

from tests.contracts import CONTRACTS
from tests.networks_for_tests import make_batch, make_method, step
from tfssl import mixing
from tfssl.methods import METHODS


def knows_it(page):
    mix = inspect.signature(page).parameters.get("mix")
    return mix is not None and "paste" in typing.get_args(mix.annotation)


NAMES = [name for name, page in METHODS.items() if knows_it(page)]


def test_who_knows_it():
    expected = "mean_teacher classmix fixmatch unimatch cps mutual robust_mutual gta u2pl cross_teacher gct"
    assert set(NAMES) >= set(expected.split())


@pytest.mark.parametrize("name", NAMES)
def test_the_labeled_images_of_the_step_are_pasted(name, monkeypatch):
    given, paste = [], mixing.paste

    def record(key, source, label, *others, **known):
        given.append((source, label, others, known))
        return paste(key, source, label, *others, **known)

    monkeypatch.setattr(mixing, "paste", record)
    method = make_method(name, **{**CONTRACTS[name].shown, "mix": "paste"})
    batch = make_batch()
    logged = step(method, batch)
    assert given and all(np.isfinite(float(value)) for value in logged.values())
    for source, label, others, known in given:
        np.testing.assert_array_equal(source, batch["labeled"][0])
        np.testing.assert_array_equal(label, batch["labeled"][1])
        assert others[0].shape == batch["unlabeled"][0].shape and len(others) > 1
        assert known == {"classes": method.task.channels, "ignore_index": method.task.ignore_index}


@pytest.mark.parametrize("name", NAMES)
def test_one_unlabeled_image_is_enough(name):
    make_method(name, **{**CONTRACTS[name].shown, "mix": "paste"}).refuse_batch((32, 32), 1, 1)
