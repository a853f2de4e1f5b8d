"""What the metrics of all kinds of labels share, against float64 NumPy."""

import math

import numpy as np

from normhpc.train.metrics import by_class, f1, macro


def test_means_are_over_the_classes_that_are_there():
    values = np.array([0.1, 0.2, 0.3, 5.0])
    present = np.array([True, True, True, False])
    assert macro(values, present) == math.fsum([0.1, 0.2, 0.3]) / 3
    assert macro(values, ~present) == 5.0
    assert math.isnan(macro(values, np.zeros(4, dtype=bool)))
    assert by_class(values, present) == [0.1, 0.2, 0.3, None]


def test_f1_of_counts():
    """2 * 3 / (4 + 5), all wrong, neither there nor predicted."""
    assert f1(np.array([3, 0, 0]), np.array([4, 2, 0]), np.array([5, 0, 0])).tolist() == [2 * 3 / 9, 0.0, 0.0]
