"""Time to import wye and to open the command line, against a bare interpreter in the same run.

Usage: python bench/startup.py

Target: `import wye` adds at most 0.3 s.
"""

import statistics
import subprocess
import sys
import time

RUNS = 15
TARGET_SECONDS = 0.3


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    cases = {"bare": "pass", "import wye": "import wye", "import wye.cli": "import wye.cli"}
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(RUNS):
        for name, code in cases.items():
            samples[name].append(seconds(code))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    for name, median in medians.items():
        print(f"{name:16} {median * 1000:8.1f} ms   {median / medians['bare']:.2f} x bare")
    added = medians["import wye"] - medians["bare"]
    print(f"import wye adds {added * 1000:.1f} ms, target {TARGET_SECONDS * 1000:.0f} ms")
    return int(added > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
