"""Trials side by side: any function of an arm's name and a seed, for every arm and every seed.

Each trial runs on one thread with PyTorch's global generator seeded by its seed: the models of
checks are tiny, so that more threads would only wait for each other. Trials run in as many spawned
processes as PyTorch would use threads, two at most. Their results are the same however many there
are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

from wye.checks.base import CheckError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wye.checks.base import CheckContext

T = TypeVar("T")
_PROCESSES = 2


def run_trials(
    trial: Callable[[str, int], T],
    arms: Sequence[str],
    seeds: Sequence[int],
    context: CheckContext,
    *,
    processes: int | None = None,
) -> dict[tuple[str, int], T]:
    """`trial(arm, seed)` of every arm and seed.

    Args:
        trial: importable (top level of a module, or a `functools.partial` of such), with a result
            that can be pickled.
        arms: names.
        seeds: of each arm.
        context: its `progress` is told which trial runs or ended.
        processes: side by side; 1 runs in this process. Scripts guard their main module, since
            processes are spawned.

    Returns:
        Results by (arm, seed), arm by arm.

    Raises:
        CheckError: no arms or seeds.
    """
    if not arms or not seeds:
        raise CheckError(f"arms={list(arms)} and seeds={list(seeds)}, expected at least one each")
    # Seed by seed, so that the arms of one seed meet the same load of the machine.
    jobs = [(arm, seed) for seed in seeds for arm in arms]
    if processes is None:
        processes = min(_PROCESSES, torch.get_num_threads())
    processes = min(processes, len(jobs))
    if processes <= 1:
        done = _in_turn(trial, jobs, context)
    else:
        done = _side_by_side(trial, jobs, context, processes)
    return {(arm, seed): done[arm, seed] for arm in arms for seed in seeds}


def _in_turn(
    trial: Callable[[str, int], T], jobs: Sequence[tuple[str, int]], context: CheckContext
) -> dict[tuple[str, int], T]:
    done = {}
    for number, (arm, seed) in enumerate(jobs, start=1):
        context.progress(f"{number}/{len(jobs)}: {arm}, seed {seed}")
        done[arm, seed] = _alone(trial, arm, seed)
    return done


def _side_by_side(
    trial: Callable[[str, int], T],
    jobs: Sequence[tuple[str, int]],
    context: CheckContext,
    processes: int,
) -> dict[tuple[str, int], T]:
    spawn = multiprocessing.get_context("spawn")
    done = {}
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        context.progress(f"0/{len(jobs)} done, in {processes} processes")
        pending: dict[Future[T], tuple[str, int]] = {
            pool.submit(_alone, trial, arm, seed): (arm, seed) for arm, seed in jobs
        }
        try:
            for number, future in enumerate(as_completed(pending), start=1):
                arm, seed = pending[future]
                done[arm, seed] = future.result()
                context.progress(f"{number}/{len(jobs)} done, last {arm}, seed {seed}")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return done


def _alone(trial: Callable[[str, int], T], arm: str, seed: int) -> T:
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return trial(arm, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
