"""Generated code runs apart, within limits, and passes only when the tests ran to their end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from wye.query import RouterError
from wye.query.answers.code_execution import run_code

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits are those of POSIX")


def test_right_and_wrong_code_are_told_apart() -> None:
    right = run_code("def f(x):\n    return 2 * x\nprint('hi')", "assert f(2) == 4")
    assert right.passed
    assert right.output == "hi\n"
    wrong = run_code("def f(x):\n    return x", "assert f(2) == 4")
    assert wrong.status == "failed"
    assert "AssertionError" in wrong.errors
    assert run_code("def f(:").status == "failed"


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_leaving_before_the_tests_is_no_pass(leave: str) -> None:
    assert run_code(leave, "assert False").status == "failed"


def test_an_endless_loop_runs_out_of_time() -> None:
    assert run_code("while True:\n    pass", seconds=0.5).status == "timeout"


def test_too_much_memory_is_refused() -> None:
    made = run_code("x = bytearray(600 * 2**20)", memory_mb=300)
    assert made.status == "failed"
    assert "MemoryError" in made.errors


def test_the_program_sees_an_empty_folder_and_environment_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WYE_SECRET", "x")
    made = run_code(
        "import os, sys\n"
        "open('left.txt', 'w').write('x')\n"
        "print(os.getcwd(), sorted(os.listdir()), 'WYE_SECRET' in os.environ, sys.argv)"
    )
    folder, rest = made.output.split(" ", 1)
    assert rest == "['left.txt', 'program.py'] False ['program.py']\n"
    assert not Path(folder).exists()


def test_what_the_program_started_ends_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    late = f"import time; time.sleep(0.5); open({str(mark)!r}, 'w')"
    made = run_code(f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {late!r}])")
    assert made.passed
    time.sleep(1)
    assert not mark.exists()


def test_output_is_kept_in_part() -> None:
    made = run_code("print('x' * 100_000)")
    assert made.passed
    assert len(made.output) == 4000


@pytest.mark.parametrize(("seconds", "memory_mb"), [(0.0, 100), (float("nan"), 100), (1.0, 0)])
def test_limits_must_be_positive(seconds: float, memory_mb: int) -> None:
    with pytest.raises(RouterError, match="expected above 0"):
        run_code("", seconds=seconds, memory_mb=memory_mb)
