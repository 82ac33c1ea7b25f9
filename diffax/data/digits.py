"""The handwritten digits that scikit-learn carries: real scans, and no download.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
(1998), CC BY 4.0: 1,797 images of 8x8, 17 grey levels (0 .. 16), classes 0 .. 9.
"""

import hashlib

import numpy as np
from jaxtyping import Int, Integer, UInt8

from diffax.checks import require_one_of
from diffax.data.optional import optional_import
from diffax.data.source import ArraySource

_TEST = 360


def split_indices(
    image: UInt8[np.ndarray, "n 64"], label: Integer[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "test"]]:
    """Train and test indices, stratified by class: the permutation is fixed by the pixels themselves.

    The images of a class are sorted by the SHA-256 of their bytes; the image of rank r among n_c has
    the quantile (r + 1/2) / n_c, and the 360 smallest quantiles (ties by class) are the test split.
    """
    digests = [hashlib.sha256(x.tobytes()).digest() for x in image]
    quantile = np.empty(len(image))
    for c in np.unique(label):
        members = sorted(np.flatnonzero(label == c), key=lambda i: (digests[i], i))
        quantile[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((label, quantile))
    return np.sort(order[_TEST:]), np.sort(order[:_TEST])


def digits(split: str = "train") -> ArraySource:
    """The 8x8 digits, ``"train"`` (1,437), ``"test"`` (360) or ``"all"`` (1,797).

    Items: ``image`` float32 (8, 8, 1), grey levels 0 .. 16 mapped to [-1, 1]; ``label`` int32 in 0 .. 9.
    The split is always the same one (see ``split_indices``). Needs scikit-learn (extra ``data``).
    """
    require_one_of("split", split, ("train", "test", "all"))
    flat, label = optional_import("sklearn.datasets").load_digits(return_X_y=True)
    image, label = flat.astype(np.uint8), label.astype(np.int32)
    train, test = split_indices(image, label)
    chosen = {"train": train, "test": test, "all": np.arange(len(image))}[split]
    pixels = image[chosen].reshape(-1, 8, 8, 1)
    return ArraySource(pixels, label[chosen], value_range=(0, 16), num_classes=10, name="digits")
