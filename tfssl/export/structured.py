"""Images that show much of what a network can see, made of a seed: for comparisons, golden files and warm-up."""

import numpy as np
from PIL import Image


def structured_images(batch, height, width, seed=0):
    """Smooth random blobs, one hard-edged rectangle and a little noise: uint8 [batch,height,width,3]."""
    random = np.random.default_rng(seed)
    images = np.empty([batch, height, width, 3], np.float32)
    for image in images:
        coarse = Image.fromarray(random.integers(0, 256, [5, 7, 3], np.uint8))
        image[:] = coarse.resize((width, height), Image.Resampling.BICUBIC)
        image[height // 4 : height // 2, width // 3 : 2 * width // 3] = random.integers(0, 256, 3)
    return np.clip(images + random.normal(0, 4, images.shape), 0, 255).astype(np.uint8)
