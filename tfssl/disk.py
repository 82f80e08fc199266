"""What must outlive a power cut."""

import os


def flush(path):
    """Wait until a file, or what a folder lists, is on the disk."""
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
