"""Images that all seeds of one norm get wrong and all of another right, against loops over images."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from results.fabricate import keep_pictures, keep_predictions

from normhpc.errors import InputError
from normhpc.record import RunFolder
from normhpc.results.disagreement import Disagreement, compare, joined
from normhpc.results.predictions import answered, class_names, kept_pictures, read_answers

CLASSES = ("ant", "bee", "cat", "dog")
NORMS = ("batch", "layer", "none")


def softmax(logits):
    shares = [math.exp(value) for value in logits]
    return [share / math.fsum(shares) for share in shares]


def study(tmp_path: Path, labels: np.ndarray, outputs: int = 4) -> tuple[Disagreement, dict[str, list[dict]]]:
    """Three norms of two, three and one seeds, each with its images in an order of its own; and their logits by row."""
    generator = np.random.default_rng(5)
    found, by_row, rows = [], {}, np.arange(100, 100 + len(labels))
    for norm, seeds in zip(NORMS, (2, 3, 1), strict=True):
        answers, by_row[norm] = [], []
        shared = generator.normal(0, 1, (len(labels), outputs))
        for seed in range(seeds):
            logits = (shared + generator.normal(0, 0.5, shared.shape)).astype(np.float32)
            order = generator.permutation(len(labels))
            folder = RunFolder(tmp_path / f"{norm}{seed}")
            folder.path.mkdir()
            keep_predictions(folder, logits[order], labels[order], rows[order])
            answers.append(read_answers(folder))
            by_row[norm].append(dict(zip(rows.tolist(), logits.astype(np.float64), strict=True)))
        found.append(joined(norm, answers))
    return compare(found), by_row


def test_counts_and_lists_are_those_of_loops_over_images(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 4, 300)
    found, by_row = study(tmp_path, labels)
    truth = dict(zip(range(100, 400), labels.tolist(), strict=True))
    said = {norm: [{row: int(np.argmax(logits[row])) for row in truth} for logits in by_row[norm]] for norm in NORMS}
    wrong = {norm: {row for row in truth if all(one[row] != truth[row] for one in said[norm])} for norm in NORMS}
    right = {norm: {row for row in truth if all(one[row] == truth[row] for one in said[norm])} for norm in NORMS}
    total = 0
    for i, first in enumerate(NORMS):
        same = sum(len({one[row] for one in said[first]}) == 1 for row in truth)
        assert found.norms[i].consistent == pytest.approx(same / 300, rel=1e-12)
        for j, second in enumerate(NORMS):
            assert found.wrong_right[i, j] == len(wrong[first] & right[second])
            assert found.both_wrong[i, j] == len(wrong[first] & wrong[second])
            expected = []
            for row in wrong[first] & right[second]:
                counts = Counter(one[row] for one in said[first])
                answer = min(counts, key=lambda label: (-counts[label], label))
                confidence = np.mean([max(softmax(logits[row])) for logits in by_row[first]])
                expected.append((-counts[answer], -confidence, row, CLASSES[truth[row]], CLASSES[answer]))
            listed = found.disputed(i, j, CLASSES)
            for one, (count, confidence, row, true, answer) in zip(listed, sorted(expected), strict=True):
                assert one[:5] == (first, second, row, true, answer)
                assert one.confidence == pytest.approx(-confidence, rel=1e-12)
                assert one[6:] == (-count, len(said[first]), len(said[second]))
            total += len(listed)
    assert total > 100
    assert (found.images, found.multiple) == (300, False)
    assert found.wrong_right.diagonal().tolist() == [0, 0, 0]
    counts = found.wrong_right + found.wrong_right.T
    assert [counts[pair] for pair in found.pairs()] == sorted(counts[np.triu_indices(3, 1)], reverse=True)
    table = found.table(CLASSES)
    assert len(table) == total
    assert table[["norm_wrong", "norm_right"]].drop_duplicates().to_numpy().tolist() == [
        [first, second] for first in NORMS for second in NORMS if first != second
    ]


def test_labels_that_are_wrong_for_all_seeds_of_one_and_right_for_all_of_another(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 2, (60, 3)).astype(np.uint8)
    found, by_row = study(tmp_path, labels)
    truth = {(100 + image, label): int(labels[image, label]) for image in range(60) for label in range(3)}
    said = {
        norm: [{place: int(logits[place[0]][place[1]] >= 0) for place in truth} for logits in by_row[norm]]
        for norm in NORMS
    }
    wrong = {norm: {at for at in truth if all(one[at] != truth[at] for one in said[norm])} for norm in NORMS}
    right = {norm: {at for at in truth if all(one[at] == truth[at] for one in said[norm])} for norm in NORMS}
    assert found.multiple
    for i, first in enumerate(NORMS):
        same = {row for row, _ in truth} - {at[0] for at in truth if len({one[at] for one in said[first]}) > 1}
        assert found.norms[i].consistent == pytest.approx(len(same) / 60, rel=1e-12)
        for j, second in enumerate(NORMS):
            both = wrong[first] & right[second]
            assert found.wrong_right[i, j] == len({row for row, _ in both})
            assert found.both_wrong[i, j] == len({row for row, _ in wrong[first] & wrong[second]})
            expected = []
            for row, label in both:
                sure = np.mean([1 / (1 + math.exp(-abs(logits[row][label]))) for logits in by_row[first]])
                kind = "false negative" if truth[row, label] else "false positive"
                expected.append((-sure, row, label, kind))
            listed = found.disputed(i, j, CLASSES)
            assert len(listed) == len(expected)
            for one, (sure, row, label, kind) in zip(listed, sorted(expected), strict=True):
                assert (one.row, one.true, one.predicted) == (row, CLASSES[label], kind)
                assert one.confidence == pytest.approx(-sure, rel=1e-12)
                assert one.seeds_agreeing == one.seeds_wrong == len(said[first])


def test_confidences_that_differ_in_the_last_bits_do_not_change_the_order(tmp_path: Path) -> None:
    logits = np.zeros((3, 4))
    logits[:, 1] = [20, 20.5, 21]
    keep_predictions(RunFolder(tmp_path), logits, [0, 0, 0], [9, 8, 7])
    answers = read_answers(RunFolder(tmp_path))
    assert len(set(answers.confidence)) == 3
    right = run_with(tmp_path / "right", [0, 0, 0], [7, 8, 9])
    listed = compare([joined("wrong", [answers]), right]).disputed(0, 1)
    assert [one.row for one in listed] == [7, 8, 9]


def test_answers_equally_frequent_are_the_lower_class_and_most_agreement_comes_first(tmp_path: Path) -> None:
    # three images of class 0: the seeds of "a" say (3, 1), (2, 2) and (2, 2) with less confidence; "b" is right
    said = [[3, 2, 2], [1, 2, 2]]
    runs = []
    for seed, own in enumerate([*said, [0, 0, 0]]):
        logits = np.zeros((3, 4))
        logits[np.arange(3), own] = [9, 3, 2]
        (tmp_path / str(seed)).mkdir()
        keep_predictions(RunFolder(tmp_path / str(seed)), logits, [0, 0, 0], [7, 8, 9])
        runs.append(read_answers(RunFolder(tmp_path / str(seed))))
    found = compare([joined("a", runs[:2]), joined("b", runs[2:])])
    listed = [(one.row, one.true, one.predicted, one.seeds_agreeing) for one in found.disputed(0, 1, ["ant", "bee"])]
    assert listed == [(8, "ant", "2", 2), (9, "ant", "2", 2), (7, "ant", "bee", 1)]
    assert found.norms[0].consistent == pytest.approx(2 / 3)
    assert found.disputed(1, 0) == []


def test_answers_to_equal_logits_and_beyond_the_classes() -> None:
    predicted, confidence = answered(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 9.0]]), np.array([0, 1]))
    assert predicted.tolist() == [0, 2]
    assert confidence.tolist() == pytest.approx([math.e / (2 * math.e + 1), math.exp(9) / (math.exp(9) + 2)], rel=1e-12)
    predicted, confidence = answered(np.array([[0.0, -1.0, 9.0]]), np.array([[1, 1]]))
    assert predicted.tolist() == [[1, 0]]
    assert confidence[0].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-1))], rel=1e-12)


def run_with(path: Path, labels: list[int], rows: list[int] | None = None):
    path.mkdir()
    keep_predictions(RunFolder(path), np.eye(4)[labels], labels, rows)
    return joined(path.name, [read_answers(RunFolder(path))])


def test_networks_of_other_images_are_refused(tmp_path: Path) -> None:
    first = run_with(tmp_path / "first", [0, 1, 2], [3, 1, 2])
    for name, labels, rows, told in (
        ("fewer", [0, 1], [1, 2], f"the 3 test images of {tmp_path / 'first'}, got 2, 0 of them to other rows; "),
        (
            "others",
            [0, 1, 2],
            [1, 2, 4],
            f"the 3 test images of {tmp_path / 'first'}, got 3, 1 of them to other rows; ",
        ),
        ("labels", [3, 1, 2], [3, 1, 2], f"the labels of the test images of {tmp_path / 'first'}, got others; "),
    ):
        with pytest.raises(InputError) as error:
            compare([first, run_with(tmp_path / name, labels, rows)])
        assert str(error.value).startswith(f"{tmp_path / name}: expected ")
        assert told in str(error.value)
        assert str(error.value).endswith("analyze them again: normhpc analyze RUN --what predictions --again")
        with pytest.raises(InputError, match="test images of"):
            joined("both", [read_answers(RunFolder(tmp_path / one)) for one in ("first", name)])
    assert compare([first, run_with(tmp_path / "same", [2, 0, 1], [2, 3, 1])]).wrong_right.tolist() == [[0, 0], [0, 0]]


def test_damaged_predictions_are_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_answers(folder) is None
    file = tmp_path / "posthoc" / "predictions.npz"
    good = {"logits": np.zeros((2, 3)), "labels": np.zeros(2, int), "rows": np.arange(2)}
    for changes, told in (
        ({"logits": np.zeros((3, 3))}, "arrays of (3, 3), (2,) and (2,)"),
        ({"labels": np.zeros((2, 4), int)}, "arrays of (2, 3), (2, 4) and (2,)"),
        ({"rows": np.array([5, 5])}, "a row twice"),
        ({"logits": np.full((2, 3), np.nan)}, "logits that are not finite"),
        ({"labels": np.array(["a", "b"])}, "something else"),
    ):
        keep_predictions(folder, [[0.0]], [0])
        np.savez(file, **(good | changes))
        with pytest.raises(InputError) as error:
            read_answers(folder)
        assert str(error.value) == (
            f"{file}: expected logits (N, outputs), labels and rows of N images, got {told}; "
            f"normhpc analyze {tmp_path} --what predictions --again makes it anew"
        )
    file.write_bytes(b"PK")
    with pytest.raises(InputError, match="got something else"):
        read_answers(folder)


def test_pictures_of_any_run_that_kept_them(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 6, 3)).astype(np.uint8)
    keep_pictures(RunFolder(tmp_path), [4, 5, 6], images)
    (tmp_path / "large").mkdir()
    keep_pictures(RunFolder(tmp_path / "large"), [7], np.zeros((1, 65, 8, 3), np.uint8))
    (tmp_path / "torn").mkdir()
    keep_pictures(RunFolder(tmp_path / "torn"), [7], images[:1])
    (tmp_path / "torn" / "posthoc" / "misclassified.npz").write_bytes(b"")
    places = [str(tmp_path / name) for name in ("none", "large", "torn", "")]
    found = kept_pictures(places, [5, 7, 4])
    assert sorted(found) == [4, 5]
    assert np.array_equal(found[5], images[1])


def test_names_of_classes() -> None:
    assert class_names({"classes": ["a", 2]}) == ("a", "2")
    assert class_names({"classes": None}) == class_names({}) == ()
