"""A plain loop does not import Lightning and gets the same warnings."""

import json
import os
import subprocess
import sys

import pytest

LOOP = """
import copy, json, pickle, sys, warnings
import torch
import lr_plugins
from lr_plugins import Assign, Constant, CosineDecay, RunLength, StepDecay
from lr_plugins.interop import ScheduleLR, TorchSchedule

net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
schedules = [
    CosineDecay().with_warmup("10%"),
    Assign(TorchSchedule(lambda o: torch.optim.lr_scheduler.StepLR(o, 2)), params="bias$"),
    Assign(Constant(0.5), to="momentum"),
]
scheduler = ScheduleLR(optimizer, schedules, run_length=RunLength.of(steps_per_epoch=5, epochs=4), module=net)
for _ in range(20):
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
scheduler.load_state_dict(scheduler.state_dict())
copy.deepcopy([optimizer, scheduler])
pickle.dumps(ScheduleLR(torch.optim.SGD(net.parameters(), lr=0.1), StepDecay(every=3)))

late = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
late_scheduler = ScheduleLR(late, StepDecay(every=3))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    late.step()
    late.step()

LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}
print(json.dumps({
    "lightning": sorted(LIGHTNING & {name.partition(".")[0] for name in sys.modules}),
    "warnings": [str(warning.message) for warning in caught if "two steps" in str(warning.message)],
}))
"""


@pytest.fixture(scope="module", params=[None, "1"], ids=["one process", "rank 1"])
def loop(request):
    """The report of a loop in a separate process, and its rank."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    if request.param:
        environment["RANK"] = request.param
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), request.param


def test_a_plain_loop_imports_no_lightning(loop):
    report, _ = loop
    assert report["lightning"] == []


def test_rank_zero_alone_warns(loop):
    report, rank = loop
    assert len(report["warnings"]) == (0 if rank else 1)
