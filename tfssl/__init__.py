"""tfssl: semi-supervised dense prediction with TensorFlow and Keras, from one JSON file to a served network."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported anywhere

__version__ = "0.1.0"
