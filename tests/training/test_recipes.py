"""The functions of the published scripts, at the epochs where the scripts' own output is known."""

import inspect

import pytest

from lr_plugins.training.recipes import article_exponential, article_mnist


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.007411), (9, 0.0005), (10, 0.0003706), (50, 2.316e-09), (199, 9.5e-29)]
)
def test_exponential_of_the_iris_script(epoch, lr):
    assert article_exponential(epoch) == pytest.approx(lr, rel=1e-2 if epoch >= 50 else 1e-4)


def test_exponential_is_the_printed_formula():
    for epoch in range(200):
        assert article_exponential(epoch) == 0.01 * 0.05 ** ((1 + epoch) / 10)
        assert article_exponential(epoch, init_lrate=0.1, drop=0.5, epochs_drop=4) == 0.1 * 0.5 ** ((1 + epoch) / 4)


def test_steps_of_the_mnist_script():
    assert [article_mnist(epoch) for epoch in range(7)] == [0.002] * 3 + [0.001] * 2 + [0.0005] * 2


@pytest.mark.parametrize("function", [article_exponential, article_mnist])
def test_only_the_epoch_is_positional(function):
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    assert kinds[0] == inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds[1:]) <= {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError):
        function(0, 0.01)  # a caller that tries (epoch, lr) first must be told no
