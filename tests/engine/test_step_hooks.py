"""Each step is seen once, for every kind of optimizer."""

import torch

from lr_plugins.engine.step_hooks import Following, inner_optimizers, watch
from tests.engine.loops import parameters, sgd


class Counter:
    def __init__(self):
        self.before, self.after = 0, 0

    def before_step(self, optimizer, args, given):
        self.before += 1

    def recheck(self):
        pass

    def after_step(self, optimizer):
        self.after += 1


class Duck:
    """Has its own step and is not a torch Optimizer."""

    def __init__(self):
        self.param_groups = [{"params": parameters(1), "lr": 0.1}]

    def step(self):
        return "stepped"


def test_steps_are_announced_until_following_stops():
    optimizer, counter = sgd(0.1), Counter()
    following = Following(optimizer, counter)
    optimizer.step()
    following.stop()
    optimizer.step()
    assert (counter.before, counter.after) == (1, 1)


def test_an_optimizer_without_hooks_gets_its_step_back():
    duck, counter = Duck(), Counter()
    following = Following(duck, counter)
    assert (duck.step(), counter.before, counter.after) == ("stepped", 1, 1)
    following.stop()
    assert "step" not in vars(duck)
    assert (duck.step(), counter.before) == ("stepped", 1)


def test_inner_optimizer_is_followed_with_the_outer_one():
    class Wrapper:
        def __init__(self, base):
            self.base, self.param_groups = base, base.param_groups

        def step(self):
            return self.base.step()

    base, counter = sgd(0.1), Counter()
    wrapper = Wrapper(base)
    assert inner_optimizers(wrapper) == [base]
    following = Following(wrapper, counter)
    base.step()
    assert counter.after == 1
    following.stop()


def test_watcher_is_called_once_per_unknown_optimizer():
    seen, optimizer = [], sgd(0.1)
    stop = watch(seen.append)
    optimizer.step()
    optimizer.step()
    stop()
    sgd(0.1).step()
    assert seen == [optimizer]


def test_an_optimizer_is_not_kept_alive():
    import gc
    import weakref

    optimizer = torch.optim.SGD(parameters(1), lr=0.1)
    following, reference = Following(optimizer, Counter()), weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert reference() is None
    following.stop()
