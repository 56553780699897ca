"""The data of the programs: scikit-learn's digits and diabetes, in memory; nothing is downloaded."""

import numpy as np
from sklearn.datasets import load_diabetes, load_digits


def digits(examples=512):
    """Images (examples, 8, 8, 1) in [0, 1], and their labels."""
    bunch = load_digits()
    images = bunch.images[:examples, :, :, None] / 16
    return images.astype(np.float32), bunch.target[:examples].astype(np.int32)


def diabetes():
    """Features (442, 10) and target (442,), both of mean 0 and deviation 1."""
    x, y = load_diabetes(return_X_y=True)
    standard = lambda a: ((a - a.mean(axis=0)) / a.std(axis=0)).astype(np.float32)
    return standard(x), standard(y)


def batches(arrays, batch_size, steps, seed=0):
    """Batches of examples drawn at random, the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(arrays[0]), batch_size, replace=False)
        yield tuple(a[rows] for a in arrays)
