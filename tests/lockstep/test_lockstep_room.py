"""The room: light to import, and of no other scale."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wye.lockstep


def test_importing_the_room_loads_no_pytorch():
    probe = "import wye.lockstep, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.torch
def test_every_public_name_resolves():
    for name in wye.lockstep.__all__:
        assert getattr(wye.lockstep, name).__module__.startswith("wye.lockstep.")
    with pytest.raises(AttributeError, match="TokenFusion"):
        _ = wye.lockstep.no_such_name


def test_the_room_imports_the_core_and_nothing_else_of_wye():
    folder = Path(wye.lockstep.__file__).parent
    found = set()
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wye"):
                found.add(".".join((node.module or "").split(".")[:2]))
            elif isinstance(node, ast.Import):
                found |= {a.name for a in node.names if a.name.startswith("wye")}
    assert found == {"wye.core", "wye.errors", "wye.lockstep"}
