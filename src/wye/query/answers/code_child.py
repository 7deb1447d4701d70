"""The child process that runs generated code: `python code_child.py SETTINGS` in an empty folder.

Reads a secret from standard input, lowers its own limits, runs `program.py` of the folder, and
writes the secret to a descriptor that the program is not told of when it ran to its end: a program
that leaves early with exit code 0 has not passed. Run as a file: it imports nothing of wye.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def main() -> None:
    """Run the program under limits; exceptions end the process with their traceback."""
    settings = json.loads(sys.argv[1])
    secret = sys.stdin.buffer.readline()
    report = settings["report"]
    for name, amount in settings["limits"].items():
        _lower(getattr(resource, name, None), amount)
    with open("program.py", encoding="utf-8") as file:
        code = compile(file.read(), "program.py", "exec")
    sys.argv = ["program.py"]
    exec(code, {"__name__": "__main__"})
    sys.stdout.flush()
    os.write(report, secret)


def _lower(kind: int | None, amount: int) -> None:
    if kind is None:
        return
    _, hard = resource.getrlimit(kind)
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    try:
        resource.setrlimit(kind, (amount, amount))
    except (ValueError, OSError) as error:  # macOS refuses a limit on address space
        sys.stderr.write(f"no limit {kind}: {error}\n")


if __name__ == "__main__":
    main()
