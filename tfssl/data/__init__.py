"""Where the images come from, how they are augmented and how the paired stream is made."""
