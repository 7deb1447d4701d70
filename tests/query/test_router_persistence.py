"""Routers on disk: whole or not at all, and clear about what cannot be read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import wye
from wye.embed import StaticEmbedder
from wye.query import ConstantRouter, RouterError, get_router
from wye.query.learning.embedded import EmbeddedRouter
from wye.query.learning.seen import seen
from wye.query.learning.training import train
from wye.query.persistence import MANIFEST, changing
from wye.testing import made_outcomes


@pytest.fixture(scope="module")
def router() -> ConstantRouter:
    return ConstantRouter().fit(made_outcomes(40))


@pytest.fixture
def saved(router: ConstantRouter, tmp_path: Path) -> Path:
    return router.save(tmp_path / "router")


def _edit(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def test_only_json_and_safetensors_are_written(saved: Path) -> None:
    assert {p.suffix for p in saved.iterdir()} == {".json", ".safetensors"}


def test_parameters_survive(tmp_path: Path) -> None:
    made = get_router("knn", k=4, seed=3, embedder=StaticEmbedder(max_chars=100))
    loaded = wye.load(made.fit(made_outcomes(30)).save(tmp_path / "r"))
    assert loaded.get_params() | {"embedder": None} == made.get_params() | {"embedder": None}
    assert loaded.embedder_.name == StaticEmbedder(max_chars=100).name


def test_saving_again_leaves_one_arrays_file(saved: Path) -> None:
    ConstantRouter().fit(made_outcomes(50, seed=9)).save(saved)
    assert len(list(saved.glob("*.safetensors"))) == 1


def test_a_writer_that_dies_leaves_the_old_router(
    saved: Path, router: ConstantRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = Path.replace, []

    def dying(self: Path, target: Path) -> Path:
        calls.append(target)
        if Path(target).name == MANIFEST:
            raise OSError("disk gone")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(OSError, match="disk gone"):
        ConstantRouter().fit(made_outcomes(50, seed=9)).save(saved)
    monkeypatch.undo()
    assert [c.name == MANIFEST for c in calls] == [False, True]
    expected = router.estimate(["x"]).quality
    np.testing.assert_array_equal(wye.load(saved).estimate(["x"]).quality, expected)
    assert not [p for p in saved.iterdir() if p.name.startswith(".")]


def test_a_folder_of_other_things_is_not_written_to(router: ConstantRouter, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RouterError, match="no router"):
        router.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_told_from_a_router(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"router\.json is missing"):
        wye.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "elsewhere"}, "not written by wye"),
        ({"version": 99}, "upgrade wye"),
        ({"version": "one"}, "upgrade wye"),
        ({"router": "from-a-plug-in"}, r"no router is named 'from-a-plug-in'"),
        ({"sha256": "0" * 64}, "damaged"),
        ({"arrays": "../elsewhere"}, "outside"),
        ({"arrays": "gone.safetensors"}, "cannot be read"),
        ({"values": None}, "values is None"),
        ({"params": {"nonsense": 1}}, r"no parameters \['nonsense'\]"),
        ({"values": {}}, "does not hold what a router"),
    ],
)
def test_what_cannot_be_read_is_named(
    saved: Path, changes: dict[str, object], message: str
) -> None:
    _edit(saved, **changes)
    with pytest.raises(RouterError, match=message):
        wye.load(saved)


def test_broken_json_is_named(saved: Path) -> None:
    (saved / MANIFEST).write_text("{")
    with pytest.raises(RouterError, match="JSON"):
        wye.load(saved)


def test_damaged_arrays_are_noticed(saved: Path) -> None:
    path = next(saved.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RouterError, match="damaged"):
        wye.load(saved)


def test_vectors_of_another_embedder_are_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    _edit(saved, values=manifest["values"] | {"embedder": "static:wordllama-0.0.1:chars=16384"})
    with pytest.raises(RouterError, match=r"wordllama-0\.0\.1.*train again"):
        wye.load(saved)


def test_the_fitted_weights_of_tfidf_survive(tmp_path: Path) -> None:
    data = made_outcomes(60)
    made = get_router("linear", embedder="tfidf:64,1").fit(data)
    loaded = wye.load(made.save(tmp_path / "r"))
    np.testing.assert_array_equal(
        loaded.estimate(data.texts).quality, made.estimate(data.texts).quality
    )


def test_writers_and_readers_of_one_folder_never_meet_half_a_router(tmp_path: Path) -> None:
    routers = [ConstantRouter().fit(made_outcomes(20, seed=s)) for s in range(2)]
    folder = routers[0].save(tmp_path / "router")
    failures: list[Exception] = []

    def again(work: Callable[[], object]) -> None:
        try:
            for _ in range(12):
                work()
        except (OSError, RouterError) as error:
            failures.append(error)

    jobs = [*(lambda r=r: r.save(folder) for r in routers), lambda: wye.load(folder)]  # type: ignore[misc]
    threads = [threading.Thread(target=again, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(list(folder.iterdir())) == 2
    wye.load(folder)


def test_what_a_router_learned_from_is_kept_with_it(tmp_path: Path) -> None:
    data = made_outcomes(40)
    part, rest = data.part("train"), data.part("test")
    loaded = wye.load(train(part, "constant").save(tmp_path / "router"))
    assert seen(loaded, part.texts).all()
    assert seen(loaded, [f"  {t.upper()} " for t in part.texts]).all()
    assert not seen(loaded, rest.texts).any()


def test_changes_of_one_saved_router_at_once_are_all_kept(tmp_path: Path) -> None:
    router = get_router("knn").fit(made_outcomes(60))
    assert isinstance(router, EmbeddedRouter)
    folder = router.save(tmp_path / "router")
    together = threading.Barrier(len(router.models_))
    failures: list[Exception] = []

    def change(model: str) -> None:
        together.wait()
        try:
            with changing(folder):
                loaded = wye.load(folder)
                assert isinstance(loaded, EmbeddedRouter)
                loaded.set_prices({model: (7.0, 9.0)}).save(folder)
        except (OSError, RouterError) as error:
            failures.append(error)

    threads = [threading.Thread(target=change, args=(model,)) for model in router.models_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    expected = router.set_prices(dict.fromkeys(router.models_, (7.0, 9.0))).estimate(["x"])
    np.testing.assert_allclose(wye.load(folder).estimate(["x"]).cost, expected.cost)


def test_a_change_of_what_is_not_there_is_told_by_its_reader(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="holds no router"), changing(tmp_path / "none"):
        wye.load(tmp_path / "none")
