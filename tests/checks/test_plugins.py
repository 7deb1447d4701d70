"""A package of somebody else's adds a router, a policy, an upstream and a check, and all are used.

The package is installed as pip would leave it, a module beside its `.dist-info`, and wye runs in a
process of its own that finds it there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wye.data import RoutingData

MODULE = '''
"""A plug-in of somebody else's."""

import numpy as np

from wye.checks import CheckResult, Claim
from wye.gateway.upstream import Upstream
from wye.query.constant import ConstantRouter
from wye.query.policies.choosing import allowed_models, best_target, write_choice
from wye.query.policy import Policy


class CoinRouter(ConstantRouter):
    """Expects of every model what it did on average."""

    name = "coin"


class Cheapest(Policy):
    """The cheapest model, whatever its quality."""

    name = "cheapest"

    def choose(self, estimate, *, allowed=None, generator=None):
        score = np.where(allowed_models(estimate, allowed), -estimate.cost, -np.inf)
        return write_choice(
            estimate, score, best_target(score, estimate.cost), lambda i: ("it is the cheapest",)
        )


class Parrot(Upstream):
    """Says what it hears."""

    def __init__(self, target):
        self.name = target.name

    async def complete(self, request):
        said = request["messages"][-1]["content"]
        return {"model": self.name, "choices": [{"message": {"content": said + "!"}}]}

    async def stream(self, request):
        yield await self.complete(request)


def check(context):
    """The cheapest model is no better than the best one."""
    quality = np.nanmean(context.data.quality, axis=0)
    claim = Claim("best - cheapest", float(quality.max() - quality[0]), ">=", 0.0)
    return CheckResult((claim,), {"models": float(len(quality))}, context.seeds, "Compared means.")
'''

USE = """
import asyncio, json, sys
from wye.data import RoutingData
from wye.gateway.config import Target
from wye.gateway.upstream import build_upstreams
from wye.query import get_router, load, router_names
from wye.query.policies import get_policy, policy_names

data = RoutingData.read(sys.argv[1])
router = get_router("coin").fit(data)
routing = router.route(["one more?"], get_policy("cheapest"))
again = load(router.save(sys.argv[2])).route(["one more?"], get_policy("cheapest"))
parrot = build_upstreams([Target(name="polly", kind="parrot")])["polly"]
answer = asyncio.run(parrot.complete({"messages": [{"role": "user", "content": "hello"}]}))
print(json.dumps({
    "names": ["coin" in router_names(), "cheapest" in policy_names()],
    "router": routing.decisions[0].router,
    "targets": [routing.targets, again.targets],
    "reason": routing.decisions[0].reasons[0],
    "answer": answer["choices"][0]["message"]["content"],
}))
"""


def install(folder: Path, entry_points: str, module: str = MODULE) -> Path:
    """The package `somebodys` version 1.2 in `folder`, as an installer leaves it."""
    info = folder / "somebodys-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "somebodys.py").write_text(module)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)
    (info / "RECORD").write_text("")
    return folder


ENTRY_POINTS = """
[wye.routers]
coin = somebodys:CoinRouter
[wye.policies]
cheapest = somebodys:Cheapest
[wye.upstreams]
parrot = somebodys:Parrot
[wye.checks]
coin = somebodys:check
"""


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    ids = [f"q{i}" for i in range(12)]
    quality = np.tile([0.0, 1.0, 1.0], 4)
    frames = [
        pd.DataFrame({"query_id": ids, "model": model, "quality": q, "cost_usd": cost})
        for model, q, cost in (("small", quality, 1e-6), ("large", np.ones(12), 1e-4))
    ]
    data = RoutingData(
        pd.DataFrame({"query_id": ids, "dataset": "sums", "split": "train",
                      "text": [f"What is {i} + {i}?" for i in range(12)]}),
        pd.concat(frames, ignore_index=True),
        pd.DataFrame({"model": ["small", "large"]}),
    )  # fmt: skip
    return data.write(tmp_path / "outcomes")


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def wye(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(site, "-c", "from wye.cli import main; main()", *arguments)


def test_a_plug_ins_router_policy_and_upstream_are_used_by_name(
    tmp_path: Path, outcomes: Path
) -> None:
    site = install(tmp_path / "site", ENTRY_POINTS)
    done = run(site, "-c", USE, str(outcomes), str(tmp_path / "router"))
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    assert used["names"] == [True, True]
    assert used["router"] == "coin"
    assert used["targets"] == [["small"], ["small"]]
    assert used["reason"] == "it is the cheapest"
    assert used["answer"] == "hello!"


def test_a_plug_in_is_in_the_catalogue_and_its_check_runs(tmp_path: Path, outcomes: Path) -> None:
    site = install(tmp_path / "site", ENTRY_POINTS)
    listed = wye(site, "systems", "--json")
    assert listed.returncode == 0, listed.stderr
    catalog = json.loads(listed.stdout)
    systems = {s["slug"]: s for s in catalog["systems"]}
    assert systems["coin"]["title"] == "Expects of every model what it did on average."
    assert systems["coin"]["status"] == "added by somebodys 1.2"
    assert "cheapest" in systems
    assert "parrot" not in systems
    assert {p["name"] for p in catalog["plugins"]} == {"coin", "cheapest", "parrot"}
    checked = wye(site, "check", "coin", "--data", str(outcomes), "--json")
    assert checked.returncode == 0, checked.stderr
    (report,) = json.loads(checked.stdout)["checks"]
    assert report["verdict"] == "holds"
    assert report["result"]["claims"][0]["value"] == pytest.approx(1 / 3)


def test_a_plug_in_that_cannot_be_loaded_is_named_and_the_rest_goes_on(
    tmp_path: Path, outcomes: Path
) -> None:
    site = install(tmp_path / "site", ENTRY_POINTS, "import a_library_that_is_not_there\n")
    listed = wye(site, "systems", "--json")
    assert listed.returncode == 0, listed.stderr
    catalog = json.loads(listed.stdout)
    problems = {(p["group"], p["name"]): p["problem"] for p in catalog["plugins"]}
    assert "a_library_that_is_not_there" in problems["wye.routers", "coin"]
    assert "somebodys 1.2" in problems["wye.policies", "cheapest"]
    assert "knn-routing" in {s["slug"] for s in catalog["systems"]}
    checked = wye(site, "check", "coin", "--data", str(outcomes))
    assert checked.returncode == 2
    assert "somebodys 1.2" in " ".join(checked.stderr.split())
    assert "Traceback" not in checked.stderr


def test_without_the_package_nothing_of_it_is_there(tmp_path: Path, outcomes: Path) -> None:
    checked = wye(tmp_path, "check", "coin", "--data", str(outcomes))
    assert checked.returncode == 2
    assert "no system is called 'coin'" in " ".join(checked.stderr.split())
