"""Metrics of both kinds of labels on random images, against torchmetrics."""

import pytest
import torch
from support.scores import random_scores
from torchmetrics.functional import classification as judge

from normhpc.train.multi_label import MultiLabel
from normhpc.train.single_label import SingleLabel


@pytest.mark.parametrize("classes", [2, 7, 20])
def test_one_label(classes):
    logits, labels = random_scores(classes)
    measured = SingleLabel(len(labels), classes, torch.device("cpu"))
    measured.put(0, logits, labels)
    metrics, details = measured.evaluation().metrics, measured.evaluation().details
    expected = {
        "top1": judge.multiclass_accuracy(logits, labels, classes, average="micro"),
        "top5": judge.multiclass_accuracy(logits, labels, classes, average="micro", top_k=min(5, classes)),
        "f1_macro": judge.multiclass_f1_score(logits, labels, classes, average="macro"),
        "f1_micro": judge.multiclass_f1_score(logits, labels, classes, average="micro"),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-6
    )
    recalls = judge.multiclass_accuracy(logits, labels, classes, average="none")
    assert details["class_accuracy"] == pytest.approx(recalls.tolist(), rel=1e-6)
    assert details["confusion"] == judge.multiclass_confusion_matrix(logits, labels, classes).tolist()


@pytest.mark.parametrize("classes", [3, 19])
def test_several_labels(classes):
    generator = torch.Generator().manual_seed(classes)
    labels = (torch.rand(300, classes, generator=generator) < torch.linspace(0.05, 0.6, classes)).to(torch.uint8)
    logits = torch.randn(300, classes, generator=generator) + labels - 0.3
    measured = MultiLabel(*labels.shape, torch.device("cpu"))
    measured.put(0, logits, labels)
    metrics, details = measured.evaluation().metrics, measured.evaluation().details
    # in float64, where sigmoids of different logits differ
    given = (logits.double(), labels.long(), classes)
    expected = {
        "map_macro": judge.multilabel_average_precision(*given, average="macro"),
        "map_micro": judge.multilabel_average_precision(*given, average="micro"),
        "f1_macro": judge.multilabel_f1_score(*given, average="macro"),
        "f1_micro": judge.multilabel_f1_score(*given, average="micro"),
        "cp": judge.multilabel_precision(*given, average="macro"),
        "cr": judge.multilabel_recall(*given, average="macro"),
        "op": judge.multilabel_precision(*given, average="micro"),
        "or": judge.multilabel_recall(*given, average="micro"),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-6
    )
    aps = judge.multilabel_average_precision(*given, average="none")
    assert details["class_ap"] == pytest.approx(aps.tolist(), rel=1e-6)
    assert details["confusion"] == judge.multilabel_confusion_matrix(*given).tolist()
