"""Tables of mistakes and confusion against scikit-learn and plain loops."""

import numpy as np
from sklearn.metrics import confusion_matrix as of_scikit_learn
from sklearn.metrics import multilabel_confusion_matrix

from normhpc.posthoc.confusion import confusion_matrix, label_confusion
from normhpc.posthoc.mistakes import Mistake, label_mistakes, mistakes

CLASSES = ("ant", "bee", "cat")


def test_mistakes_are_in_the_order_of_their_confidence() -> None:
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9], [0.7, 0.2, 0.1]]))
    found = mistakes(logits, np.array([0, 2, 1, 1]), np.array([10, 11, 12, 13]), CLASSES)
    assert [one[:3] for one in found] == [(12, "bee", "cat"), (11, "cat", "bee"), (13, "bee", "ant")]
    np.testing.assert_allclose([one.confidence for one in found], [0.9, 0.7, 0.7])


def test_equal_logits_are_the_class_of_the_lower_number_and_outputs_may_be_more_than_classes() -> None:
    logits = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    found = mistakes(logits, np.array([1, 0]), np.arange(2), CLASSES)
    assert [one[:3] for one in found] == [(1, "ant", "3"), (0, "bee", "ant")]


def test_false_positives_and_negatives() -> None:
    logits = np.array([[2.0, -1.0, 0.0], [-3.0, 1.0, -0.5]])
    found = label_mistakes(logits, np.array([[1, 1, 0], [1, 1, 0]]), np.array([4, 5]), CLASSES)
    shares = [1 - 1 / (1 + np.exp(3.0)), 1 - 1 / (1 + np.e), 0.5]
    assert [one[:3] for one in found] == [
        (5, "ant", "false negative"),
        (4, "bee", "false negative"),
        (4, "cat", "false positive"),
    ]
    np.testing.assert_allclose([one.confidence for one in found], shares)
    assert isinstance(found[0], Mistake)


def test_confusion_is_scikit_learn_s() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((200, 5)), generator.integers(0, 5, 200)
    wanted = of_scikit_learn(labels, logits.argmax(axis=1), labels=range(5))
    assert np.array_equal(confusion_matrix(logits, labels, 5), wanted)
    wider = np.concatenate([logits, np.full((200, 2), 9.0)], axis=1)
    assert confusion_matrix(wider, labels, 5).shape == (5, 7)
    many = generator.integers(0, 2, (200, 5))
    assert np.array_equal(label_confusion(logits, many), multilabel_confusion_matrix(many, logits >= 0))
