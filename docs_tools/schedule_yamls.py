"""The options of the group `schedule`, made from the docstrings: `python -m docs_tools.schedule_yamls`.

Each option is a schedule with all of its arguments. The value of an argument is its default, and the comment beside it
what the docstring says of it; `OPTIONS` has what differs, and the options that combine several schedules.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lr_plugins import schedules as s

FOLDER = Path(__file__).parents[1] / "lr_plugins/conf/schedule"

_COLUMN, _WIDTH = 30, 120  # where comments start, and where lines end
_LENGTH = "100 or 100st optimizer steps, 10ep epochs, 10% of the run"


@dataclass(frozen=True)
class Node:
    """A schedule in an option.

    Args:
        kind: its class.
        values: the values that are not the defaults; another node in place of one is a schedule within this one.
        comments: what stands beside an argument in place of the docstring's words.
        only: the arguments to show. Default: all of them.
    """

    kind: type
    values: Mapping[str, Any] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raw:
    """A node that is no schedule: its keys, each a value or a pair of a value and its comment."""

    keys: Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """A file of the group.

    Args:
        node: what it builds.
        title: its first line. Default: that of the docstring.
    """

    node: Node
    title: str = ""


def _step_decay(start: str = "", every: str = "") -> Node:
    comments = {"initial_learning_rate": start, "every": every}
    return Node(s.StepDecay, {"every": "3ep"}, {name: text for name, text in comments.items() if text})


def _cosine(start: str = "", decay_steps: str = "") -> Node:
    comments = {"initial_learning_rate": start, "decay_steps": decay_steps}
    only = ("initial_learning_rate", "decay_steps", "end_learning_rate")
    return Node(s.CosineDecay, {}, {name: text for name, text in comments.items() if text}, only)


_LAYERS = r"regular expressions for the layers, lowest first: [stem, 'blocks\.(\d+)', head]; null: all modules"
_AS_FACTOR = "where the factor starts, >= 0; null: 1"
_AFTER_WARMUP = "learning rate after the warm-up, >= 0; null: the optimizer's own"
_OF_THE_REST = "how long the fall takes; percent are of what the warm-up leaves of the run"

OPTIONS: Mapping[str, Option] = {
    "annealed": Option(
        Node(
            s.Annealed,
            {"schedule": _step_decay()},
            {"schedule": "the schedule up to `after`"},
        ),
        "A schedule that is annealed to an end value from some time on, as for weight averaging.",
    ),
    "article_exponential": Option(
        Node(
            s.FunctionSchedule,
            {
                "function": Raw(
                    {
                        "_target_": "lr_plugins.training.recipes.article_exponential",
                        "_partial_": True,
                        "init_lrate": (0.01, "learning rate one epoch before the first, >= 0"),
                        "drop": (0.05, "factor over epochs_drop epochs (the article's text says 0.5)"),
                        "epochs_drop": (10, "epochs over which drop applies once"),
                    }
                )
            },
            {"function": "called with the epoch"},
            ("function",),
        ),
        "The Iris article's code as it stands, which is smooth: init_lrate * drop ** (floor(1 + epoch) / epochs_drop).",
    ),
    "bold_driver": Option(Node(s.BoldDriver)),
    "chain": Option(
        Node(
            s.Chain,
            {
                "lengths": ["50%"],
                "schedules": [
                    Node(s.Constant),
                    _cosine(
                        "learning rate at the start of the part, >= 0; null: the optimizer's own",
                        "how long the fall takes; here all that is left of the run",
                    ),
                ],
            },
            {
                "lengths": f"how long each part but the last is: {_LENGTH}",
                "schedules": "each counts from its own start, and percent within it are of its own time",
            },
        ),
        "One schedule after another: constant for half of the run, and a fall to zero over the rest.",
    ),
    "constant": Option(Node(s.Constant)),
    "cooldown": Option(Node(s.Cooldown)),
    "cosine": Option(Node(s.CosineDecay)),
    "cosine_restarts": Option(Node(s.CosineRestarts, {"first_decay_steps": "3ep"})),
    "cycle_through": Option(Node(s.CycleThrough, {"first": 0.001, "peak": 0.01, "last": 0.0})),
    "cyclic": Option(Node(s.Cyclic, {"min_learning_rate": 0.001, "max_learning_rate": 0.01})),
    "exponential": Option(Node(s.ExponentialDecay, {"decay_rate": 0.1})),
    "function": Option(
        Node(
            s.FunctionSchedule,
            {
                "function": Raw(
                    {
                        "_target_": "hydra.utils.get_method",
                        "path": ("lr_plugins.training.recipes.article_mnist", "dotted name of the function"),
                    }
                )
            },
            {
                "function": "takes the epoch, or the epoch and the learning rate so far",
                "initial_learning_rate": "what a function of (epoch, lr) gets for epoch 0; null: the optimizer's own",
                "of": "what it is a function of: epoch, step (optimizer steps), fraction (of the run, 0 to 1)",
            },
        ),
        "Any function of the epoch, or of (epoch, lr), called once an epoch, as Keras' LearningRateScheduler does.",
    ),
    "greedy": Option(Node(s.Greedy)),
    "interpolation": Option(
        Node(
            s.PiecewiseInterpolation,
            {
                "points": [
                    ([0, 0.0], "before the first point its value holds"),
                    (["30%", 0.01], "where all points are in epochs, each epoch has one value"),
                    (["100%", 0.0], "after the last point its value holds"),
                ]
            },
            {"points": f"pairs of when and the learning rate there, >= 0; when: 0, or {_LENGTH}; increasing"},
        )
    ),
    "inverse_sqrt": Option(Node(s.InverseSquareRoot, {"decay_steps": 100})),
    "inverse_time": Option(Node(s.InverseTimeDecay)),
    "layer_decay": Option(
        Node(
            s.Assign,
            {"layer_decay": 0.75, "schedule": _cosine()},
            {"schedule": "that of the highest layer", "layers": _LAYERS},
            ("layer_decay", "layers", "params", "schedule"),
        ),
        "For fine-tuning: the lower the layer, the lower its learning rate.",
    ),
    "linear": Option(Node(s.LinearDecay)),
    "loss_driven": Option(
        Node(s.LossDriven),
        "A learning rate that follows the loss, lr0 * exp(k * (loss - reference)): it rises with the loss.",
    ),
    "multi_step": Option(Node(s.MultiStepDecay, {"milestones": ["50%", "75%"]})),
    "noise": Option(
        Node(
            s.Noise, {"schedule": Node(s.CosineDecay, only=("_target_",))}, {"schedule": "the schedule below the noise"}
        )
    ),
    "one_cycle": Option(Node(s.OneCycle)),
    "one_cycle_momentum": Option(
        Node(
            s.Assignments,
            {
                "assignments": Raw(
                    {
                        "lr": Node(
                            s.OneCycle,
                            only=(
                                "max_learning_rate",
                                "total_steps",
                                "pct_start",
                                "anneal",
                                "div_factor",
                                "final_div_factor",
                            ),
                        ),
                        "momentum": Node(
                            s.Assign,
                            {
                                "to": "momentum",
                                "schedule": Node(
                                    s.CycleThrough,
                                    {"first": 0.95, "peak": 0.85, "last": 0.95},
                                    {
                                        "first": "momentum at the start, from 0 to 1",
                                        "peak": "momentum where the learning rate is highest",
                                        "last": "momentum at the end",
                                    },
                                    ("first", "peak", "last", "total_steps", "pct_start", "anneal"),
                                ),
                            },
                            {"to": "beta1 where the optimizer has betas", "schedule": "that of the momentum"},
                            ("to", "schedule"),
                        ),
                    }
                )
            },
            {"assignments": "NAME -> schedule of the learning rate, or assignment"},
        ),
        "One cycle of the learning rate, and one of the momentum the other way round, as in torch's OneCycleLR.",
    ),
    "per_group": Option(
        Node(
            s.Assignments,
            {
                "assignments": Raw(
                    {
                        "all": _cosine(),
                        "biases": Node(
                            s.Assign,
                            {
                                "params": "bias$",
                                "schedule": _step_decay("where it starts, >= 0; null: the group's own"),
                            },
                            {
                                "name": "what the groups are called; null: the name here, biases",
                                "layers": _LAYERS,
                                "schedule": "the schedule of these parameters",
                            },
                            ("params", "group", "optimizer", "to", "layer_decay", "layers", "name", "schedule"),
                        ),
                    }
                )
            },
            {"assignments": "NAME -> schedule of all parameters, or assignment; NAME=null removes one"},
        ),
        "Different schedules for different parameters, by name; of those that fit a parameter, the last one counts.",
    ),
    "piecewise": Option(Node(s.PiecewiseConstant, {"boundaries": ["3ep", "5ep"], "values": [0.002, 0.001, 0.0005]})),
    "plateau": Option(Node(s.ReduceLROnPlateau)),
    "plateau_warmup": Option(
        Node(
            s.Warmup,
            {
                "warmup_steps": "5%",
                "schedule": Node(
                    s.Product,
                    {
                        "schedules": [
                            _cosine(_AFTER_WARMUP, _OF_THE_REST),
                            Node(
                                s.ReduceLROnPlateau,
                                {"factor": 0.5, "patience": 3, "min_learning_rate": "0.01x"},
                                {
                                    "initial_learning_rate": _AS_FACTOR,
                                    "min_learning_rate": "floor of the factor, a multiple of where it starts; 0: none",
                                    "eps": "largest change not worth making; null: 0 (keras), 1e-8 (torch)",
                                },
                            ),
                        ]
                    },
                    {"schedules": "the first gives the learning rate, the others are factors"},
                ),
            },
            {"schedule": "what follows; patience is not counted before"},
            ("warmup_steps", "start_factor", "shape", "schedule"),
        ),
        "A rise to the learning rate; then half a cosine wave, times a factor that falls at plateaus of a metric.",
    ),
    "polynomial": Option(Node(s.PolynomialDecay)),
    "product": Option(
        Node(
            s.Product,
            {"schedules": [_cosine(), _step_decay(_AS_FACTOR)]},
            {"schedules": "the first gives the learning rate, the others are factors"},
        ),
        "A learning rate times factors: half a wave of the cosine, and a drop by a factor once every so often.",
    ),
    "step_decay": Option(_step_decay()),
    "tanh": Option(Node(s.TanhDecay)),
    "warmup_cosine": Option(
        Node(
            s.Warmup,
            {"warmup_steps": "5%", "schedule": _cosine(_AFTER_WARMUP, _OF_THE_REST)},
            {"schedule": "what follows; it counts from its own start"},
        ),
        "A rise to the learning rate, and then half a wave of the cosine over the rest of the run.",
    ),
    "warmup_stable_decay": Option(Node(s.WarmupStableDecay)),
    "warmup_step": Option(
        Node(
            s.Warmup,
            {"warmup_steps": "1ep", "start_factor": 0.1, "schedule": _step_decay(_AFTER_WARMUP)},
            {"schedule": "what follows; it counts from its own start"},
        ),
        "A rise to the learning rate, and then drops by a factor.",
    ),
}
"""What each file of the group builds."""


def text_of(option: Option) -> str:
    """The file of an option."""
    title = option.title or (inspect.getdoc(option.node.kind) or "").splitlines()[0]
    lines = [*textwrap.wrap(_plain(title), _WIDTH, initial_indent="# ", subsequent_indent="# ")]
    return "\n".join([*lines, *_node(option.node, "")]) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write all files of the group."""
    for name, option in OPTIONS.items():
        (folder / f"{name}.yaml").write_text(text_of(option))


def _node(node: Node | Raw, indent: str) -> Iterator[str]:
    if isinstance(node, Raw):
        for name, given in node.keys.items():
            value, comment = given if isinstance(given, tuple) else (given, "")
            yield from _entry(name, value, comment, indent)
        return
    yield f"{indent}_target_: lr_plugins.schedules.{node.kind.__name__}"
    described = _described(node.kind)
    parameters = inspect.signature(node.kind).parameters
    shown = node.only or tuple(sorted(parameters, key=lambda name: _is_nested(node.values.get(name))))
    for name in shown:
        if name in parameters:
            value = node.values.get(name, parameters[name].default)
            yield from _entry(name, value, node.comments.get(name, described.get(name, "")), indent)


def _is_nested(value: object) -> bool:
    return isinstance(value, (Node, Raw)) or (isinstance(value, list) and any(isinstance(one, Node) for one in value))


def _entry(name: str, value: Any, comment: str, indent: str) -> Iterator[str]:
    if isinstance(value, (Node, Raw)):
        yield from _commented(f"{indent}{name}:", comment)
        yield from _node(value, f"{indent}  ")
    elif isinstance(value, list) and any(isinstance(one, (Node, tuple)) for one in value):
        yield from _commented(f"{indent}{name}:", comment)
        for one in value:
            first, *rest = _node(one, f"{indent}    ") if isinstance(one, Node) else _item(one, f"{indent}    ")
            yield f"{indent}  - {first.lstrip()}"
            yield from rest
    else:
        yield from _commented(f"{indent}{name}: {_scalar(value)}", comment)


def _item(item: tuple[list[Any], str], indent: str) -> Iterator[str]:
    value, comment = item
    yield from _commented(f"{indent}{_scalar(value)}", comment)


def _commented(start: str, comment: str) -> Iterator[str]:
    """A line with its comment, which continues below itself where it is long."""
    if not comment:
        yield start
        return
    column = max(_COLUMN, len(start) + 2)
    first, *rest = textwrap.wrap(_plain(comment), max(_WIDTH - column - 2, 40), break_on_hyphens=False)
    yield f"{start:<{column}}# {first}"
    for line in rest:
        yield f"{'':<{column}}# {line}"


def _scalar(value: object) -> str:
    if isinstance(value, float) and "e" in repr(value):
        return f"{value:.12f}".rstrip("0") if value < 1 else f"{value:.1f}"  # yaml reads 1e-6 as a text
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_scalar, value))}]"
    return str(value) if isinstance(value, str) else json.dumps(value)


def _described(kind: type) -> dict[str, str]:
    """What a class's docstring says of each argument, as the comment of a field.

    Example:
        >>> _described(s.StepDecay)["drop"]
        'the factor, > 0'
    """
    doc = inspect.getdoc(kind) or ""
    arguments = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    items = re.split(r"^    (?=\w+: )", arguments[1] if arguments else "", flags=re.MULTILINE)
    pairs = (" ".join(item.split()).partition(": ") for item in items if item.strip())
    return {name: _comment(text) for name, _, text in pairs}


def _comment(text: str) -> str:
    """What a docstring says of an argument, for a file: in yaml's values, without the default that stands there anyway.

    Example:
        >>> _comment("where it starts, >= 0. Default None: the optimizer's own. (A sentence beside it.)")
        "where it starts, >= 0; null: the optimizer's own"
    """
    text = _plain(text)
    text = re.sub(r"\s*\([A-Z][^()]*(?:\([^()]*\)[^()]*)*\)", "", text)
    text = re.sub(r"; (?:a )?plain numbers? counts? optimizer steps[^.;]*", f": {_LENGTH}", text)
    # "Default null: the whole run." explains a value, and "Default true; false: with it." another one.
    text = re.sub(r"\. Default (\[[^]]*\]|[^\s:;]+): ", r"; \1: ", text)
    text = re.sub(r"\. Default [^\s:;]+; ", "; ", text)
    text = re.sub(r"\. Default ([^\s:;,]+), ", r"; \1, ", text)
    text = re.sub(r"[.,] Default (\[[^]]*\]|[^\s:;]+?)( \([^)]*\))?\.(?= |$)", ".", text)
    text = re.sub(r" \((?:the )?default\)|(?<=\()(?:the )?default; ", "", text)
    return text.strip().rstrip(".")


def _plain(text: str) -> str:
    """Words without the marks of a docstring, and with yaml's names of values."""
    text = re.sub(r"`([^`]*)`", lambda code: re.sub(r'\br(?=")|"', "", code[1]), text)
    for name, value in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{name}\b", value, text)
    return text.replace("null (null)", "null")


if __name__ == "__main__":
    write()
