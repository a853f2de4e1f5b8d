"""Images per second of a normhpc run against the loops that people write today, on the same network and images.

    python benchmarks/training.py [--pairs 20] [--case CASE] [--peer PEER]

Each loop is a process of its own, as people run them, and they take turns, an epoch each: the ratio is taken pair by
pair, so that a machine that drifts slows both. The first epoch of each is left out.

- bare: images as one normalized float tensor, batches by index; the fastest simple loop there is.
- torchvision: the step of torchvision's reference script, which reads loss, top 1 and top 5 at every step.
- timm: the step of timm's script, which reads the loss at every 50th step and updates the schedule at every one.
- script: end to end as the scripts of earlier studies: one PIL image after another through torchvision's transforms in
  the two workers of a DataLoader, augmented as in the normhpc run, loss and accuracy read at every step. Both end their
  epochs with an evaluation: of 1,024 images for 5,120 that are trained, CIFAR's own proportion.

All peers compute in NCHW and fp32, as those loops do, whatever the normhpc run does: NHWC unless a case says otherwise.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from normhpc import data, models
from normhpc.config import Resources, RunConfig
from normhpc.config.training import StandardAugment
from normhpc.record import RecordWriter, RunFolder
from normhpc.train.loop import end_epoch, train_epoch
from normhpc.train.startup import prepare_torch
from normhpc.train.stop import StopRequest
from normhpc.train.training import prepare
from normhpc.train.world import joined_world

IMAGES = {"name": "synthetic", "images": 1280, "test_images": 16, "val_fraction": 0.0}
EVALUATED = {"name": "synthetic", "images": 6144, "test_images": 16, "val_fraction": 1 / 6}
SCRIPTED = {"data": EVALUATED, "model": "resnet20", "batch_size": 128}
NCHW = {"name": "resnet20", "channels_last": False}
# that of sweeps/reproduce/era_cifar10.yaml
HEAVY = {
    "name": "standard",
    "crop_padding": 0,
    "grayscale_probability": 0.1,
    "rotation_degrees": 7,
    "rotation_fill": 0,
    "perspective_probability": 0.5,
    "perspective_distortion": 0.3,
}
CASES = {
    "resnet20": {"data": IMAGES, "model": "resnet20", "batch_size": 128},
    "convnet": {"data": "digits", "model": "convnet", "batch_size": 64},
    "resnet20_script": SCRIPTED | {"augment": "standard"},
    "resnet20_script_nchw": SCRIPTED | {"augment": "standard", "model": NCHW},
    "resnet20_script_bf16": SCRIPTED | {"augment": "standard", "precision": "bf16"},
    "resnet20_heavy_script": SCRIPTED | {"augment": HEAVY},
}


@contextmanager
def normhpc_epochs(config: RunConfig) -> Iterator[Callable[[], int]]:
    """A function that trains one epoch as ``normhpc train`` does and returns its images."""
    never = config.checkpoint.model_copy(update={"every_epochs": None, "every_minutes": None})
    with tempfile.TemporaryDirectory() as place, joined_world() as world:
        folder = RunFolder(Path(place) / "run")
        endless = config.model_copy(update={"checkpoint": never})
        folder.create(endless, sweep="benchmark", swept={}, resources=Resources(), code={})
        writer = RecordWriter(folder)
        training = prepare(folder, folder.read_run(), world, StopRequest(), writer)

        def epoch() -> int:
            train_epoch(training)
            images = training.state.position.step * config.batch_size
            end_epoch(training)
            return images

        yield epoch
        writer.close()


def step_epochs(config: RunConfig, peer: str) -> Callable[[], int]:
    """A function that trains one epoch with a loop written by hand and returns its images."""
    images = data.load(config.data)
    mean = torch.tensor(images.mean).view(1, -1, 1, 1)
    std = torch.tensor(images.std).view(1, -1, 1, 1)
    pixels = images.train.images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    x = (pixels.float() / 255 - mean) / std
    y = images.train.labels
    model = models.build(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = len(x) // config.batch_size
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)

    def epoch() -> int:
        order = torch.randperm(len(x))
        read: list[float] = []
        for step in range(steps):
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            labels = y[rows]
            logits = model(x[rows])
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if peer != "torchvision":
                scheduler.step()
            if peer == "torchvision":
                read += [loss.item(), *(right.item() for right in top_k(logits.detach(), labels))]
            elif peer == "bare" or step % 50 == 0:
                read.append(loss.item())
        return steps * config.batch_size

    return epoch


def script_epochs(config: RunConfig) -> Callable[[], int]:
    """As :func:`step_epochs`, with images read and augmented one by one in workers, and an evaluation."""
    from torchvision import transforms

    images = data.load(config.data)
    finish = [transforms.ToTensor(), transforms.Normalize(images.mean, images.std)]

    def loader(part: data.ImageSplit, made: list[Any], **how: Any) -> torch.utils.data.DataLoader[Any]:
        pictures = PictureFiles(part.images.numpy(), part.labels.tolist(), transforms.Compose([*made, *finish]))
        return torch.utils.data.DataLoader(
            pictures, batch_size=config.batch_size, num_workers=2, persistent_workers=True, **how
        )

    trained = loader(images.train, augmented_as(config), shuffle=True, drop_last=True)
    held_out = loader(images.val, [])
    model = models.build(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def epoch() -> int:
        seen, right, total = 0, 0, 0.0
        model.train()
        for pictures, labels in trained:
            optimizer.zero_grad()
            logits = model(pictures)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
        model.eval()
        with torch.no_grad():
            for pictures, labels in held_out:
                logits = model(pictures)
                total += F.cross_entropy(logits, labels).item() * len(labels)
                right += (logits.argmax(1) == labels).sum().item()
        return seen

    return epoch


def augmented_as(config: RunConfig) -> list[Any]:
    """torchvision's transforms of PIL images for the augmentation of a run."""
    from torchvision import transforms

    asked = config.augment
    assert isinstance(asked, StandardAugment)
    _, height, _ = config.data.stored_shape()
    made: list[Any] = [transforms.RandomCrop(height, padding=asked.crop_padding)] if asked.crop_padding else []
    made.append(transforms.RandomHorizontalFlip())
    if asked.grayscale_probability:
        made.append(transforms.RandomGrayscale(asked.grayscale_probability))
    if asked.rotation_degrees:
        made.append(transforms.RandomRotation(asked.rotation_degrees))
    if asked.perspective_probability:
        made.append(transforms.RandomPerspective(asked.perspective_distortion, asked.perspective_probability))
    return made


class PictureFiles(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """PIL images and labels, as torchvision's data sets give them."""

    def __init__(self, pixels: np.ndarray, labels: list[int], made: Callable[[Image.Image], torch.Tensor]) -> None:
        self.pixels, self.labels, self.made = pixels, labels, made

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.made(Image.fromarray(self.pixels[row])), self.labels[row]


def top_k(logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Images whose label is the first, and among the first five."""
    right = labels == logits.topk(5).indices.T
    return [right[:k].flatten().sum() for k in (1, 5)]


@contextmanager
def loop_of(case: str, peer: str, epochs: int) -> Iterator[Callable[[], int]]:
    """A function that trains one epoch of ``case`` with the loop ``peer`` and returns its images."""
    config = RunConfig.model_validate(CASES[case] | {"epochs": epochs + 1})
    # the script reads its images in processes of its own: the step has both cores against all others
    threads = 2 if "augment" in CASES[case] else 1
    if peer == "normhpc":
        prepare_torch(config, Resources(cpus_per_gpu=threads))
        with normhpc_epochs(config) as epoch:
            yield epoch
    else:
        torch.set_num_threads(threads)
        torch.manual_seed(config.seed)
        yield script_epochs(config) if peer == "script" else step_epochs(config, peer)


def serve(connection: Connection, case: str, peer: str, epochs: int) -> None:
    """Train an epoch whenever asked to, and answer with its images per second."""
    with loop_of(case, peer, epochs) as epoch:
        for _ in range(epochs):
            connection.recv()
            began = time.perf_counter()
            images = epoch()
            connection.send(images / (time.perf_counter() - began))
        connection.recv()  # nobody cleans up while the other one is measured


def measure(case: str, peer: str, pairs: int) -> dict[str, object]:
    """Both loops, taking turns; which one goes first changes from pair to pair."""
    context = multiprocessing.get_context("spawn")
    rates: dict[str, list[float]] = {"normhpc": [], peer: []}
    ends = {}
    for name in rates:
        ends[name], other = context.Pipe()
        context.Process(target=serve, args=(other, case, name, pairs + 1)).start()
    turns = list(rates)
    for _ in range(pairs + 1):
        for name in turns:
            ends[name].send("epoch")
            rates[name].append(ends[name].recv())
        turns.reverse()
    for end in ends.values():
        end.send("end")
    ours, theirs = rates.values()
    ratios = sorted(mine / other for mine, other in zip(ours[1:], theirs[1:], strict=True))
    return {
        "case": case,
        "peer": peer,
        "pairs": pairs,
        "normhpc_images_per_second": round(statistics.median(ours[1:]), 1),
        "peer_images_per_second": round(statistics.median(theirs[1:]), 1),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(part, 4) for part in statistics.quantiles(ratios, n=4)[::2]],
    }


def main() -> None:
    """Print a JSON line for each case and peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--peer", choices=("bare", "torchvision", "timm", "script"))
    arguments = parser.parse_args()
    for case in [arguments.case] if arguments.case else CASES:
        # images are augmented against a peer that does so too
        peers = ("script",) if "augment" in CASES[case] else ("bare", "torchvision", "timm")
        for peer in peers:
            if arguments.peer in (None, peer):
                print(json.dumps(measure(case, peer, arguments.pairs)), flush=True)


if __name__ == "__main__":
    main()
