"""tfssl: semi-supervised dense prediction with TensorFlow and Keras, from one JSON file to a served network."""

__version__ = "0.1.0"
