"""What a changing learning rate costs on a GPU: a ResNet-18 step with and without a schedule, and device waits.

Method: in one process, on one model with random CIFAR-shaped images in bfloat16. In every round each contender takes a
fixed number of steps, in an order that rotates from round to round; the clock is read after a synchronization. The
table shows the median time of one step and the median of its ratios, within each round, to its reference (`torch` or
`Lightning`). `waits` counts how often torch reported a wait for the device within those steps
(`torch.cuda.set_sync_debug_mode`), minus those of the reference.

- `torch`: the plain loop, SGD with momentum. `torch, LambdaLR`: with `scheduler.step()`.
- `torch, ScheduleLR`: with a warm-up and a cosine of ours.
- `Lightning`: the same model in `Trainer.fit`, without a logger; `empty callback`: with a callback whose hooks do
  nothing; `LearningRateScheduler`: with ours.

    python benchmarks/gpu_step.py
    python benchmarks/gpu_step.py --model mlp --steps 300
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import pytorch_lightning as pl
import torch
import torchvision

from lr_plugins import CosineDecay, LearningRateScheduler, RunLength
from lr_plugins.interop import ScheduleLR

SCHEDULE = CosineDecay(0.1).with_warmup("5%")
BESIDE = {
    "torch": "torch",
    "torch, LambdaLR": "torch",
    "torch, ScheduleLR": "torch",
    "Lightning": "Lightning",
    "Lightning, empty callback": "Lightning",
    "Lightning, LearningRateScheduler": "Lightning",
}


def network(name: str) -> torch.nn.Module:
    if name == "mlp":
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(3072, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )
    return torchvision.models.resnet18(num_classes=10).to(memory_format=torch.channels_last)


class Classifier(pl.LightningModule):
    """A network with its loss, and SGD with momentum."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = network(name)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Batches(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """One batch on the device, repeated."""

    def __init__(self, batch: list[torch.Tensor], steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __iter__(self) -> object:
        return iter([self.batch] * self.steps)

    def __len__(self) -> int:
        return self.steps


class Timed(pl.Callback):
    """Seconds per step of a fit, without the first tenth of its steps; must be the last of the callbacks."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begin, self.seconds = steps, 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        if index == self.steps // 10:
            torch.cuda.synchronize()
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        torch.cuda.synchronize()
        self.seconds = (time.perf_counter() - self.begin) / (self.steps - self.steps // 10)


class Empty(pl.Callback):
    """Does nothing at the hooks around a batch and an epoch."""

    def on_train_batch_start(self, *_: object) -> None: ...

    def on_train_batch_end(self, *_: object) -> None: ...

    def on_train_epoch_start(self, *_: object) -> None: ...

    def on_train_epoch_end(self, *_: object) -> None: ...


def by_torch(way: str, name: str, batch: list[torch.Tensor], steps: int) -> float:
    module = Classifier(name).cuda()
    optimizer = module.configure_optimizers()
    update: Callable[[], object] = lambda: None  # noqa: E731
    if way == "torch, LambdaLR":
        update = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (2 * steps)).step
    elif way == "torch, ScheduleLR":
        update = ScheduleLR(optimizer, SCHEDULE, run_length=RunLength.of(steps=steps)).step
    for step in range(steps):
        if step == steps // 10:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = module.training_step(batch, step)
        loss.backward()
        optimizer.step()
        update()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / (steps - steps // 10)


def by_lightning(way: str, name: str, batch: list[torch.Tensor], steps: int) -> float:
    timed = Timed(steps)
    ours = {
        "Lightning, empty callback": Empty,
        "Lightning, LearningRateScheduler": lambda: LearningRateScheduler(SCHEDULE),
    }
    callbacks = [ours[way](), timed] if way in ours else [timed]
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(name), torch.utils.data.DataLoader(Batches(batch, steps), batch_size=None))
    return timed.seconds


def measure(way: str, name: str, batch: list[torch.Tensor], steps: int) -> tuple[float, int]:
    """Seconds a step, and the waits for the device that torch reported."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            seconds = (by_torch if way.startswith("torch") else by_lightning)(way, name, batch, steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return seconds, sum("synchronizing" in str(one.message) for one in caught)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["resnet18", "mlp"], default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    images = torch.randn(options.batch, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
    batch = [images, torch.randint(10, (options.batch,), device="cuda")]
    ways = list(BESIDE)
    for way in ways:  # what is done once
        measure(way, options.model, batch, 20)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    waits: dict[str, int] = {}
    for index in range(options.rounds):
        for way in ways[index % len(ways) :] + ways[: index % len(ways)]:
            one, waits[way] = measure(way, options.model, batch, options.steps)
            seconds[way].append(one)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.model}, batch {options.batch}")
    print(f"{'':34} ms a step    ratio    waits")
    for way, beside in BESIDE.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[way], seconds[beside], strict=True))
        print(f"{way:34} {1e3 * statistics.median(seconds[way]):9.3f} {ratio:8.3f} {waits[way] - waits[beside]:8}")


if __name__ == "__main__":
    main()
