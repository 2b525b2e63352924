"""The order of the batches, and resuming within an epoch, with and without Lightning."""

import random
import time
import warnings

import numpy as np
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from lr_plugins.training.data import Batches, Digits, Fake, Iris
from tests.training.data import LAWS, SEEDS, gathered, ready


@LAWS
@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_every_epoch_has_every_sample_once(samples, batch_size, seed, epoch):
    y = torch.arange(samples)
    loader = Batches(y.float(), y, batch_size, shuffle=True, seed=seed)
    loader.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(len(y) == batch_size for _, y in batches[:-1])
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(samples))
    assert all(torch.equal(x, y.float()) for x, y in batches)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def orders(seed, disturb=False):
        loader = ready(Iris(seed=seed, validation_fraction=0)).train_dataloader()
        result = []
        for _ in range(3):
            if disturb:
                torch.rand(7)
                random.random()
            result.append([x.tolist() for x, _ in loader])
        return result

    torch.manual_seed(0)
    first = orders(1)
    torch.manual_seed(99)
    assert orders(1, disturb=True) == first
    assert first[0] != first[1] != first[2]
    assert orders(2)[0] != first[0]
    assert orders(2)[0] != first[1], "seed + epoch would make the runs of neighbouring seeds the same run, shifted"


def test_reading_the_data_draws_no_global_random_numbers():
    def states():
        numpys = np.random.get_state()[1].tolist()  # noqa: NPY002 the global state is what is looked at
        return torch.get_rng_state().tolist(), numpys, random.getstate()

    before = states()
    for data in (Iris(), Digits(), Fake()):
        gathered(ready(data).train_dataloader())
    assert states() == before


@LAWS
@given(batches=st.integers(0, 25), epoch=st.integers(0, 5))
def test_a_loader_continues_from_the_saved_place(batches, epoch):
    def fresh():
        y = torch.arange(23)
        return Batches(y, y, 3, shuffle=True, seed=5)

    interrupted, whole = fresh(), fresh()
    interrupted.set_epoch(epoch)
    whole.set_epoch(epoch)
    expected = [y.tolist() for _, y in whole] + [y.tolist() for _, y in whole]
    seen = [y.tolist() for _, (_, y) in zip(range(batches), interrupted, strict=False)]
    resumed = fresh()
    if batches:
        resumed.load_state_dict(interrupted.state_dict())
    else:
        resumed.set_epoch(epoch)
    rest = [y.tolist() for _, y in resumed]
    assert seen + rest == expected[: len(seen + rest)]
    assert len(rest) > 0


class Recorder(pl.LightningModule):
    """Learns nothing much and writes down the targets of every training batch."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(4, 3), []

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen.append((self.current_epoch, batch_idx, x.sum().item(), y.tolist()))
        return torch.nn.functional.cross_entropy(self.layer(x), y)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(data, folder, ckpt=None, **options):
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return module.seen


def test_a_run_continued_from_any_step_gets_the_same_batches(tmp_path):
    def small():
        return Iris(batch_size=30, seed=4)  # 4 batches an epoch

    every_step = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = run(small(), tmp_path, max_epochs=3, callbacks=[every_step])
    assert len(whole) == 12
    assert len({str(batches) for batches in (whole[0:4], whole[4:8], whole[8:12])}) == 3
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        for step in range(1, 12):
            rest = run(small(), tmp_path, f"{tmp_path}/step={step}.ckpt", max_epochs=3, enable_checkpointing=False)
            assert rest == whole[step:], f"continued after step {step}"


def test_lightning_settings_that_touch_loaders(tmp_path):
    for distributed_sampler in (True, False):
        options = {"max_epochs": 2, "enable_checkpointing": False, "use_distributed_sampler": distributed_sampler}
        seen = run(Iris(), tmp_path, **options)
        assert len(seen) == 48
    data = Iris()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*requested to overfit.*")
        seen = run(data, tmp_path, max_epochs=3, overfit_batches=2, enable_checkpointing=False)
    assert [batch[1:] for batch in seen[0:2]] == [batch[1:] for batch in seen[2:4]] == [b[1:] for b in seen[4:6]]
    assert len(seen) == 6


def test_an_epoch_of_iris_costs_under_two_milliseconds():
    loader = ready(Iris(validation_fraction=0)).train_dataloader()
    costs = []
    for _ in range(50):
        start = time.perf_counter()
        count = sum(1 for _ in loader)
        costs.append(time.perf_counter() - start)
    assert count == 30
    assert min(costs) < 2e-3
