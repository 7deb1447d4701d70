"""An audit file survives crashes and shows tampering; any router's decisions can be replayed."""

from __future__ import annotations

from pathlib import Path

import pytest

from wye.core.audit import AuditChain, AuditError, verify
from wye.query import get_router
from wye.query.audit.decisions import record_decisions, replay_decisions
from wye.query.audit.file import REPAIR, AuditFile, read_audit
from wye.query.policies import Explore, Quality, Utility
from wye.query.registry import BUILT_IN
from wye.testing.query_data import made_outcomes

DATA = made_outcomes(60)
TEXTS = [*DATA.texts[:6], "a question of another kind"]


def written(path: Path, n: int = 3) -> str:
    with AuditFile(path) as log:
        for i in range(n):
            log.append("step", {"number": i, "text": "ä"})
        return log.head


def test_reopening_goes_on_with_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    first = written(path)
    with AuditFile(path) as log:
        assert log.head == first
        assert log.repair is None
        log.append("step", {})
    assert [r.index for r in read_audit(path, head=log.head)] == [0, 1, 2, 3]


def test_flipping_any_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 2)
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(AuditError):
            read_audit(path)


@pytest.mark.parametrize("order", [[0, 2], [1, 0, 2], [1, 2], [0, 1, 1, 2]])
def test_deleted_and_moved_lines_are_found_and_never_written_after(
    tmp_path: Path, order: list[int]
) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[i] for i in order))
    before = path.read_bytes()
    with pytest.raises(AuditError, match="stands where"):
        read_audit(path)
    with pytest.raises(AuditError, match="stands where"):
        AuditFile(path)
    assert path.read_bytes() == before


def test_a_missing_end_is_found_by_who_kept_the_head(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    head = written(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert len(read_audit(path)) == 2
    with pytest.raises(AuditError, match="its end is missing"):
        read_audit(path, head=head)


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_torn_last_line_is_kept_aside_reported_and_entered(tmp_path: Path, left: int) -> None:
    path = tmp_path / "audit.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    torn = lines[2][:left]
    path.write_bytes(lines[0] + lines[1] + torn)
    with pytest.raises(AuditError, match="torn"):
        read_audit(path)
    with pytest.warns(UserWarning, match="torn"):
        log = AuditFile(path)
    with log:
        assert log.repair is not None
        assert log.repair.torn == torn
        assert log.repair.kept_in.read_bytes() == torn + b"\n"
        log.append("step", {"number": 3})
    records = read_audit(path)
    assert [r.step for r in records] == ["step", "step", REPAIR, "step"]
    assert records[2].body["bytes"] == len(torn)
    with AuditFile(path) as again:
        assert again.repair is None


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditFile(path) as log:
        with pytest.raises(AuditError, match="another writer"):
            AuditFile(path)
        log.append("step", {})
    with pytest.raises(AuditError, match="closed"):
        log.append("step", {})
    log.close()
    assert len(read_audit(path)) == 1


def test_a_refused_body_leaves_the_chain_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditFile(path) as log:
        with pytest.raises(AuditError, match="finite"):
            log.append("step", {"cost": float("nan")})
        log.append("step", {})
    assert len(read_audit(path)) == 1


@pytest.mark.parametrize("name", ["constant", "knn", "linear"])
def test_the_decisions_of_a_router_are_audited_and_replayed(name: str) -> None:
    assert name in BUILT_IN
    router = get_router(name).fit(DATA)
    chain = AuditChain()
    policy = Utility(cost_weight=50)
    record_decisions(chain, TEXTS, router.route(TEXTS, policy))
    verify(chain)
    assert replay_decisions(chain, router, policy, TEXTS) == len(TEXTS)


def test_a_replay_notices_what_is_decided_otherwise() -> None:
    router = get_router("knn").fit(DATA)
    chain = AuditChain()
    record_decisions(chain, TEXTS, router.route(TEXTS), keep_text=True)
    assert replay_decisions(chain, router) == len(TEXTS)
    with pytest.raises(AuditError, match="policy was 'quality"):
        replay_decisions(chain, router, Utility(cost_weight=50))
    with pytest.raises(AuditError, match="decided otherwise"):
        replay_decisions(chain, get_router("knn").fit(made_outcomes(80, seed=1)))


def test_a_drawn_choice_is_replayed_by_its_seed() -> None:
    router = get_router("constant").fit(DATA)
    policy = Explore(inner=Quality(), epsilon=0.9)
    chain = AuditChain()
    record_decisions(chain, TEXTS, router.route(TEXTS, policy, seed=4), seed=4)
    record_decisions(chain, TEXTS[:2], router.route(TEXTS[:2], policy, seed=5), seed=5)
    targets = {r.body["decision"]["target"] for r in chain}
    assert len(targets) > 1
    assert replay_decisions(chain, router, policy, TEXTS) == len(TEXTS) + 2


def test_a_replay_says_what_it_lacks() -> None:
    router = get_router("constant").fit(DATA)
    chain = AuditChain()
    record_decisions(chain, TEXTS, router.route(TEXTS))
    with pytest.raises(AuditError, match="pass it in `texts`"):
        replay_decisions(chain, router, texts=TEXTS[1:])
    with pytest.raises(AuditError, match="replay whole batches"):
        replay_decisions(chain[1:], router, texts=TEXTS)
    with pytest.raises(AuditError, match="has 3 of 7 decisions"):
        replay_decisions(chain[:3], router, texts=TEXTS)
    with pytest.raises(AuditError, match="6 texts for 7 decisions"):
        record_decisions(chain, TEXTS[1:], router.route(TEXTS))


@pytest.mark.parametrize(("step", "body"), [(5, {}), (None, {}), ("step", None), ("step", [1])])
def test_a_record_that_could_not_be_read_back_is_not_written(
    tmp_path: Path, step: object, body: object
) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditFile(path) as log:
        with pytest.raises(AuditError, match="expected a string and a mapping"):
            log.append(step, body)  # type: ignore[arg-type]
        log.append("step", {})
    assert [r.step for r in read_audit(path)] == ["step"]


def test_a_line_nested_without_end_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"[" * 100_000 + b"\n")
    for read in (read_audit, AuditFile):
        with pytest.raises(AuditError, match="record 0: not a record"):
            read(path)


def test_a_folder_or_nothing_is_no_audit_file(tmp_path: Path) -> None:
    for read in (read_audit, AuditFile):
        with pytest.raises(AuditError, match="Is a directory"):
            read(tmp_path)
    with pytest.raises(AuditError, match="No such file"):
        read_audit(tmp_path / "none.jsonl")
