"""A development server: TensorFlow Serving's REST and gRPC API for one model directory, without a container.

It is there so that a client can be built and tested on a laptop. It is not made for production: there use TensorFlow
Serving itself, whose API, error codes and folder layout this one follows.
"""
