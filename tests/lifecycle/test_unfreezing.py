"""Groups added during training: one column each, and schedules counted from a group's own first step."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint

from lr_plugins import Assign, Constant, CosineDecay, LearningRateScheduler, LinearDecay, RunLength, StepDecay
from lr_plugins.errors import InvalidArgumentError
from tests.toys import Toy, fit, loader

FOUR = loader(16, 4)  # batches per epoch


class Deep(Toy):
    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1))
        self.backbone = torch.nn.Linear(3, 3)

    def compute_loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(self.backbone(x)), y)


class Unfreezes(BaseFinetuning):
    """As in Lightning's documentation."""

    def __init__(self, epoch=1, lr=0.1):
        super().__init__()
        self.epoch, self.lr = epoch, lr

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.epoch:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=self.lr)


class ByHand(pl.Callback):
    """The same without BaseFinetuning, within an epoch."""

    def setup(self, trainer, module, stage):
        module.backbone.requires_grad_(False)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 2):
            module.backbone.requires_grad_(True)
            trainer.optimizers[0].add_param_group({"params": list(module.backbone.parameters()), "lr": 0.1})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("behind", [True, False])
def test_scheduler_is_ordered_after_a_finetuning_callback(behind):
    scheduler, finetuning = LearningRateScheduler(StepDecay(0.2, every="1ep")), Unfreezes()
    callbacks = [scheduler, finetuning] if behind else [finetuning, scheduler]
    trainer = fit(Deep(), *callbacks, train=FOUR)
    order = [type(one).__name__ for one in trainer.callbacks]
    assert order.index("Unfreezes") < order.index("LearningRateScheduler")
    halved = [0.2] * 4 + [0.1] * 4 + [0.05] * 4
    assert scheduler.trace["lr"].values.tolist() == halved
    assert scheduler.trace["lr/1"].values.tolist() == halved[4:]
    assert scheduler.audit.followed == 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("behind", [True, False])
def test_callback_order_does_not_matter_in_a_resumed_run(behind, tmp_path):
    def trained(*more, **options):
        scheduler = LearningRateScheduler(CosineDecay(0.2))
        callbacks = [scheduler, Unfreezes()] if behind else [Unfreezes(), scheduler]
        fit(Deep(), *callbacks, *more, train=FOUR, epochs=4, **options)
        return scheduler.trace

    whole = trained(ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1), enable_checkpointing=True)
    for epoch in (0, 1, 2):
        rest = trained(ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert list(rest) == list(whole) == ["lr", "lr/1"]
        for name, series in rest.items():
            assert series.values.tolist() == whole[name].values.tolist()[-len(series) :], (epoch, name)


@pytest.mark.filterwarnings("ignore")
def test_group_added_manually_within_an_epoch():
    scheduler = LearningRateScheduler(StepDecay(0.2, every="1ep"))
    fit(Deep(), scheduler, ByHand(), train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [0.2] * 4 + [0.1] * 4 + [0.05] * 4
    assert (scheduler.trace["lr/1"].first_step, scheduler.trace["lr/1"].values.tolist()) == (6, [0.1] * 2 + [0.05] * 4)


@pytest.mark.filterwarnings("ignore")
def test_unfrozen_group_gets_its_own_warmup():
    warm = Assign(CosineDecay(0.1).with_warmup("4st"), params="^backbone", since="group")
    scheduler = LearningRateScheduler([Constant(0.2), warm])
    fit(Deep(), Unfreezes(), scheduler, train=FOUR, epochs=4)
    backbone = scheduler.trace["lr/backbone"]
    rest = RunLength.of(steps_per_epoch=4, epochs=3)
    own = CosineDecay(0.1).with_warmup("4st")
    assert backbone.first_step == 4
    assert backbone.values.tolist() == [own(rest.position(step)) for step in range(12)]
    assert backbone.values[:5] == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])


@pytest.mark.filterwarnings("ignore")
def test_group_added_within_an_epoch_counts_its_own_epochs():
    own = Assign(StepDecay(0.1, every="1ep"), params="^backbone", since="group")
    scheduler = LearningRateScheduler([Constant(0.2), own])
    fit(Deep(), scheduler, ByHand(), train=FOUR, epochs=4)
    assert scheduler.trace["lr/backbone"].values.tolist() == [0.1] * 4 + [0.05] * 4 + [0.025] * 2


@pytest.mark.filterwarnings("ignore")
def test_groups_added_in_turn_start_at_their_own_first_step(tmp_path):
    class Gradually(Unfreezes):
        def freeze_before_training(self, pl_module):
            self.freeze([pl_module.backbone, pl_module.neck])

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch in (1, 2):
                part = pl_module.neck if epoch == 1 else pl_module.backbone
                self.unfreeze_and_add_param_group(part, optimizer, lr=0.1)

    class Deeper(Deep):
        def __init__(self):
            super().__init__()
            self.neck = torch.nn.Linear(3, 3)

    def trained(*more, **options):
        falling = Assign(LinearDecay(0.1, decay_steps="8st"), params="^(backbone|neck)", since="group")
        scheduler = LearningRateScheduler([Constant(0.2), falling])
        fit(Deeper(), scheduler, Gradually(), *more, train=FOUR, epochs=4, **options)
        return {name: series.values.tolist() for name, series in scheduler.trace.items()}

    whole = trained(ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1), enable_checkpointing=True)
    falling = [0.1 * (1 - step / 8) for step in range(8)]
    (first, neck, backbone) = whole.values()
    assert first == [0.2] * 16
    assert neck == pytest.approx([*falling, *[0.0] * 4])
    assert backbone == pytest.approx(falling)
    for epoch in (1, 2):
        rest = trained(ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert {name: whole[name][-len(values) :] for name, values in rest.items()} == rest


def test_since_accepts_two_values():
    with pytest.raises(InvalidArgumentError, match=r"Assign\.since must be one of run, group; got 'epoch'"):
        Assign(Constant(0.1), since="epoch")


@pytest.mark.filterwarnings("ignore")
def test_backbone_finetuning_listed_after_the_scheduler():
    scheduler = LearningRateScheduler(StepDecay(0.2, every="1ep"))
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1, verbose=False)
    fit(Deep(), scheduler, finetuning, train=FOUR)
    assert scheduler.trace["lr"].values.tolist() == [0.2] * 4 + [0.1] * 4 + [0.05] * 4
