"""How often the semantic answer cache takes two asks for one that are not.

    python bench/gateway/answer_likeness.py [DATA ...] [--pairs PAIRS.jsonl]

DATA are folders of routing data; the embedded set where none is given. Every text of a set is a
question of its own, so each that finds an earlier one is counted, and shown, as a false hit.
PAIRS has one JSON object a line: `text_a`, `text_b`, and `label`, 1 where both ask the same. Of it,
precision (share of hits that ask the same) and recall (share of same asks that hit) are printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wye.data import RoutingData, load_embedded
from wye.embed import get_embedder
from wye.gateway.answer_cache.likeness import agree
from wye.gateway.answer_cache.settings import AnswerCacheTable

DEFAULTS = AnswerCacheTable()
THRESHOLDS = (0.9, 0.95, 0.97, DEFAULTS.threshold, 0.99)
_BLOCK = 1024


def among_different(name: str, texts: Sequence[str]) -> None:
    """Print how many of the texts would get the answer of another."""
    texts = list(dict.fromkeys(t for t in texts if 0 < len(t) <= DEFAULTS.max_characters))
    vectors = get_embedder("static").embed(texts)
    near, hits = set(), {}
    for start in range(0, len(texts), _BLOCK):
        cosines = vectors[start : start + _BLOCK] @ vectors.T
        for row, column in np.argwhere(cosines >= DEFAULTS.threshold).tolist():
            if column < start + row:
                near.add(start + row)
                if agree(texts[start + row], texts[column]):
                    hits[start + row] = column
    print(
        f"{name}: {len(texts)} different asks; {len(near)} ({len(near) / len(texts):.3%}) reach "
        f"cosine {DEFAULTS.threshold}, {len(hits)} ({len(hits) / len(texts):.3%}) are hits"
    )
    for row, column in list(hits.items())[:5]:
        print(f"    {texts[row][:90]!r}\n    {texts[column][:90]!r}")


def on_pairs(path: Path) -> None:
    """Print precision and recall on labelled pairs, with the comparison of words and without."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    same = np.array([bool(int(row["label"])) for row in rows])
    one, other = ([str(row[name]) for row in rows] for name in ("text_a", "text_b"))
    embedder = get_embedder("static")
    cosines = (embedder.embed(one) * embedder.embed(other)).sum(axis=1)
    agreed = np.array([agree(a, b) for a, b in zip(one, other, strict=True)])
    print(f"{path.name}: {len(rows)} pairs, {same.mean():.1%} ask the same")
    for threshold in THRESHOLDS:
        near = cosines >= threshold
        for words, found in (("alone", near), ("+ words", near & agreed)):
            precision = same[found].mean() if found.any() else float("nan")
            recall = (same & found).sum() / same.sum()
            print(
                f"  cosine {threshold:.2f} {words:8} {found.sum():6d} hits  "
                f"precision {precision:.3f}  recall {recall:.3f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--pairs", type=Path)
    given = parser.parse_args()
    if given.pairs is not None:
        on_pairs(given.pairs)
    for folder in given.data:
        among_different(folder.name, RoutingData.read(folder).texts)
    if not given.data:
        among_different("embedded", load_embedded().texts)
