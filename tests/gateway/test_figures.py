"""Several workers told of as one: loads and counts add up, and what a dead one counted stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.breaker import State
from wye.gateway.config import Config
from wye.gateway.figures import (
    DeploymentFigures,
    Figures,
    StoreFigures,
    TargetFigures,
    together,
)
from wye.gateway.workers.board import Board, bury, make_folder
from wye.gateway.workers.worker import own_config

few = st.integers(0, 50)
states = st.sampled_from(list(State))


@st.composite
def targets(draw) -> TargetFigures:
    deployments = tuple(
        DeploymentFigures(
            name=f"model #{number}",
            state=draw(states),
            retry_after_s=draw(st.floats(0, 300)),
            in_flight=draw(few),
            weight=1.0,
        )
        for number in (1, 2)
    )
    available = draw(st.booleans())
    return TargetFigures(
        state=draw(states),
        available=available,
        closed=None if available else "failed lately",
        deployments=deployments,
    )


@st.composite
def figures(draw) -> Figures:
    return Figures(
        running=draw(few),
        waiting=draw(few),
        draining=draw(st.booleans()),
        targets={"model": draw(targets())},
        store=StoreFigures(ok=draw(st.booleans()), lost=draw(few), pending=draw(few)),
        ledger_waiting=draw(few),
        policy={"version": draw(st.sampled_from("ab")), "error": None},
        traces={"sent": draw(few), "dropped": draw(few)},
        shadows={"made": draw(few)},
        shadows_waiting=draw(few),
    )


@given(st.lists(figures(), min_size=1, max_size=5))
def test_loads_add_up_and_a_target_is_as_bad_as_where_it_stands_worst(found):
    whole = together(found)
    for name in ("running", "waiting", "ledger_waiting", "shadows_waiting"):
        assert getattr(whole, name) == sum(getattr(one, name) for one in found)
    assert whole.store.lost == sum(one.store.lost for one in found)
    assert whole.store.ok == all(one.store.ok for one in found)
    assert whole.traces["dropped"] == sum(one.traces["dropped"] for one in found)
    assert (whole.draining, whole.policy) == (found[0].draining, found[0].policy)
    target, parts = whole.targets["model"], [one.targets["model"] for one in found]
    badness = [State.CLOSED, State.HALF_OPEN, State.OPEN].index
    assert badness(target.state) == max(badness(part.state) for part in parts)
    assert target.available == any(part.available for part in parts)
    assert target.in_flight == sum(part.in_flight for part in parts)
    # In whichever order the others are told, the sums are the same.
    again = together([found[0], *reversed(found[1:])])
    assert again.targets == whole.targets
    assert again.store == whole.store


@given(figures(), figures())
def test_what_a_dead_worker_counted_stays_and_what_it_did_does_not(own, dead):
    whole = together([own, dead.remains()])
    assert whole.store.lost == own.store.lost + dead.store.lost
    assert whole.traces["sent"] == own.traces["sent"] + dead.traces["sent"]
    assert whole.shadows["made"] == own.shadows["made"] + dead.shadows["made"]
    assert (whole.running, whole.waiting, whole.targets) == (own.running, own.waiting, own.targets)
    assert whole.store.ok == own.store.ok
    assert dead.remains().remains() == dead.remains()


@given(figures())
def test_figures_are_read_as_they_were_written(told):
    assert Figures.model_validate_json(told.model_dump_json()) == told


def standing(running: int, lost: int):
    def read(*, monitors: bool = False) -> Figures:
        return Figures(running=running, store=StoreFigures(lost=lost))

    return read


def test_who_takes_a_place_counts_on_from_who_had_it():
    with make_folder(2) as name:
        folder = Path(name)
        other = Board(folder, 2, 2, standing(1, 5))
        for lost in (10, 20, 30):
            worker = Board(folder, 1, 2, standing(4, lost))
            worker.start()
            worker.close()
            bury(folder, 1)
        other.start()
        assert other.figures().store.lost == 10 + 20 + 30 + 5
        assert other.figures().running == 1
        assert other.told() == {"answering": 2, "configured": 2, "pids": {"2": os.getpid()}}
        other.close()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_canaries_are_asked_by_the_first_worker_alone(number):
    config = Config.model_validate(
        {
            "targets": [{"name": "one", "base_url": "http://127.0.0.1:9/v1"}],
            "watch": {"canaries": {"prompts": ["What is 6 x 7?"]}},
        }
    )
    watch = own_config(config, number).watch
    assert (watch.canaries is not None) == (number == 1)
    assert watch.calibration == (number == 1)
    assert watch.traffic
