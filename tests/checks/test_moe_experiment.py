"""Arms x seeds: repeatable, the same in one process and in two, figures by name."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from wye.checks import CheckContext, CheckError
from wye.checks.moe.corpus import Corpus
from wye.checks.moe.experiment import Arm, run_arms
from wye.checks.moe.trials import run_trials
from wye.moe import FeedForward, MoEError, Shape

pytestmark = pytest.mark.torch

TEXT = Corpus("made", bytes(i * i % 97 for i in range(3000)), bytes(i * i % 89 for i in range(900)))
SHAPE = Shape(n_layers=2, width=16, hidden=8, n_experts=4, k=2)
RUN = {
    "text": TEXT,
    "shape": SHAPE,
    "steps": 3,
    "batch": 4,
    "length": 12,
    "n_heads": 2,
    "eval_batches": 2,
}
ARMS = {"plain": Arm("top_k"), "raw": Arm("top_k", options={"normalise": False})}


def context_of(told=None):
    heard = [] if told is None else told
    return CheckContext(data=None, seeds=(3, 4), progress=heard.append)


def dense(shape, *, hidden):
    return [FeedForward(shape.width, hidden) for _ in range(shape.n_layers)]


def seed_of(model, log, held_out, seed):
    assert not model.training
    assert held_out is TEXT.held_out
    return {"seed": float(seed), "steps": float(len(log.loss))}


def blank_embedding(model, seed):
    with torch.no_grad():
        model.embedding.weight.mul_(0.0 if seed == 3 else 1.0)


def test_every_arm_runs_with_every_seed_and_its_figures_are_by_name():
    told = []
    results = run_arms(ARMS, context_of(told), processes=1, **RUN)
    assert results.arms == ("plain", "raw")
    assert results.seeds == (3, 4)
    assert told[0].startswith("1/4: plain, seed 3")
    assert told[-1].startswith("4/4: raw, seed 4")
    for trial in results.of("plain"):
        assert trial.figures["loss"] == trial.evaluation.loss
        by_layer = trial.log.max_violation.mean(axis=0)
        assert trial.figures["max_violation"] == by_layer.max()
        assert trial.figures["eval_max_violation"] == max(trial.evaluation.max_violation.values())
        assert trial.figures["fan_out"] == 2.0
        assert trial.figures["drop_share"] == 0.0
        assert trial.figures["seconds"] == pytest.approx(trial.log.seconds.sum())
    losses = results.values("raw", "loss")
    assert results.mean("raw", "loss") == pytest.approx(np.mean(losses))
    assert results.worst("raw", "loss") == max(losses)
    assert results.best("raw", "loss") == min(losses)
    assert results.figures("loss") == {
        f"{arm} loss": results.mean(arm, "loss") for arm in ("plain", "raw")
    }


def test_one_process_and_two_give_the_same_results():
    here = run_arms(ARMS, context_of(), processes=1, **RUN)
    told = []
    apart = run_arms(ARMS, context_of(told), processes=2, **RUN)
    assert told[0] == "0/4 done, in 2 processes"
    for key, trial in here.trials.items():
        other = apart.trials[key]
        assert trial.log.loss.tolist() == other.log.loss.tolist()
        assert trial.log.load.tolist() == other.log.load.tolist()
        assert trial.evaluation.loss == other.evaluation.loss


def test_an_arm_overrides_what_it_sets_and_nothing_else():
    arms = {
        "short": Arm("top_k", steps=1, measure=seed_of, shape=Shape(**{**vars(SHAPE), "k": 1})),
        "dense": Arm(dense, options={"hidden": 4}, measure=seed_of),
    }
    results = run_arms(arms, context_of(), processes=1, **RUN)
    assert results.values("short", "steps") == [1.0, 1.0]
    assert results.values("short", "fan_out") == [1.0, 1.0]
    assert results.values("dense", "steps") == [3.0, 3.0]
    assert results.values("dense", "seed") == [3.0, 4.0]
    assert "fan_out" not in results.of("dense")[0].figures


def test_a_model_is_prepared_before_it_is_trained():
    arms = {"as it is": Arm("top_k"), "blank": Arm("top_k", prepare=blank_embedding)}
    results = run_arms(arms, context_of(), processes=1, **RUN)
    first = {arm: [t.log.loss[0] for t in results.of(arm)] for arm in arms}
    # With zero embeddings every byte is as likely as any other.
    assert first["blank"][0] == pytest.approx(np.log(256), abs=1e-5)
    assert first["blank"][1] == first["as it is"][1]


def test_arms_and_results_can_be_sent_between_processes():
    results = run_arms(ARMS, context_of(), processes=1, **RUN)
    back = pickle.loads(pickle.dumps(results))  # noqa: S301
    assert back.figures() == results.figures()
    assert pickle.loads(pickle.dumps(ARMS)) == ARMS  # noqa: S301


def test_what_is_missing_is_named():
    with pytest.raises(CheckError, match="expected at least one each"):
        run_arms({}, context_of(), **RUN)
    with pytest.raises(MoEError, match="no system is called 'top_q'"):
        run_arms({"typo": Arm("top_q")}, context_of(), processes=1, **RUN)
    with pytest.raises(MoEError, match="has no parameters"):
        run_arms({"typo": Arm("top_k", options={"q": 1})}, context_of(), processes=1, **RUN)
    results = run_arms({"one": Arm("top_k")}, context_of(), processes=1, **RUN)
    with pytest.raises(CheckError, match=r"no arm is called 'two'; there are \['one'\]"):
        results.of("two")
    with pytest.raises(CheckError, match="one has no figure 'lost'; it has"):
        results.mean("one", "lost")


def draw(scale, arm, seed):
    return arm, scale * float(torch.rand(()))


def test_trials_of_any_kind_are_seeded_and_leave_the_generator_and_threads_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = run_trials(partial(draw, 2.0), ["a", "b"], (0, 1), context_of(), processes=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert list(found) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    expected = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected[seed] = 2.0 * float(torch.rand(()))
    torch.set_rng_state(before)
    assert {key: value for key, (_, value) in found.items()} == {
        (arm, seed): expected[seed] for arm in "ab" for seed in (0, 1)
    }


def fail(arm, seed):
    if arm == "b":
        raise ValueError(f"{arm} cannot run")
    return nn.Identity


def test_a_trial_that_fails_fails_the_run():
    with pytest.raises(ValueError, match="b cannot run"):
        run_trials(fail, ["a", "b"], (0,), context_of(), processes=1)
