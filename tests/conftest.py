"""Quiet TensorFlow, and two logical CPU devices so that strategies can be tested on any machine."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

# Their fixtures; one of them keeps tests out of the user's cache of checks.
pytest_plugins = [
    f"tests.{name}_for_tests" for name in ("lists", "runs", "finished", "exports", "serving")
]

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")  # two strategies in one process would use each other's collective keys
def two_replicas():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
