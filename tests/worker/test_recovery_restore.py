"""A database that was set back under a worker: noticed, recorded, and what is written afterwards has its records."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.audit.support import restart
from tests.integration.test_eras_on_servers import saved, set_back
from tests.worker.recovery_support import Bed, bed_for

from backtest_kit_mongo.backends.mongo.identity import IdentityDocument
from backtest_kit_mongo.backends.redis.link import RedisLink
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_worker.fence import PrimaryChanged
from backtest_kit_worker.recovery import restores
from backtest_kit_worker.recovery.records import AuditRecords
from backtest_kit_worker.recovery.state import RecoveryState

pytestmark = pytest.mark.live


@pytest.fixture
def bed(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_restore") as made:
        yield made


class Died(BaseException):
    """As a SIGKILL: nothing that the process would still do is done."""


EFFECTS = (
    *((IdentityDocument, name) for name in ("note", "begin", "place", "record")),
    (RedisLink, "run"),
    (restores, "cut"),
    (AuditRecords, "write"),
    (RecoveryState, "begin"),
    (RecoveryState, "move"),
)


def dies_after(count: int, work: Callable[[], object], patch: pytest.MonkeyPatch) -> bool:
    """Let work end by itself, or after so many effects."""
    done = itertools.count(1)

    def dying(effect: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            answer = effect(*args, **options)
            if threading.current_thread() is threading.main_thread() and next(done) == count:
                raise Died
            return answer

        return act

    with patch.context() as patched:
        for owner, name in EFFECTS:
            patched.setattr(owner, name, dying(getattr(owner, name)))
        try:
            work()
        except Died:
            return True
    return False


def test_a_restore_is_recorded_wherever_its_recorder_dies_and_revisions_given_out_again_are_too(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache: Any = bed.store.cache
    cache.close()  # Nobody but recovery notices anything.
    bed.write(1)
    bed.work_until(lambda: bed.data() == [1])
    files = saved(bed.mongo)
    cache.confirm()
    for count in itertools.count(1):
        bed.write(2)
        bed.write(3)
        cache.close()
        # These are in the feed still, and would be taken for the revisions that come next.
        set_back(bed.mongo, files)
        bed.restart()
        has_died = dies_after(count, bed.recovery.run_once, monkeypatch)
        if has_died:
            bed.restart()
            bed.recovery.run_once()
        assert not bed.events(), count
        (restored,) = bed.records(operation="restore")
        assert "was set back" in restored["reason"], count
        assert bed.mongo["cache-identity"].find_one()["restores"][0]["recorded"] is True  # type: ignore[index]
        bed.write(4)
        bed.catch_up()
        (second,) = [record for record in bed.records(operation="upsert") if record["rev"] == 2]
        assert second["payload"] == {"data": 4}, count
        if not has_died:
            assert count > len(EFFECTS)
            assert "dropped: " in restored["reason"]
            assert bed.recovery.counts["restore"] == 1
            return


def test_what_was_judged_before_a_restore_is_judged_again_whether_or_not_anybody_notices_it(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.write(1)
    bed.catch_up()
    bed.write(2)
    bed.states.insert_one({"signalId": "signal", "bucketName": "of a stranger"})
    # Of then are the documents; what the worker made of them is lost.
    files = {name: found for name, found in saved(bed.mongo).items() if not name.endswith("-items") or name == ITEMS}
    bed.catch_up()
    assert len(bed.records(operation="foreign")) == 1
    set_back(bed.mongo, {name: found for name, found in files.items() if name != "cache-identity"})
    restart(monkeypatch)
    bed.audit = bed.loop()  # It has nothing at hand, so it would only deliver once more.
    with pytest.raises(PrimaryChanged):
        bed.catch_up()
    bed.catch_up()
    assert len(bed.records(operation="foreign")) == 1
    assert [record["payload"] for record in bed.records(operation="upsert")] == [{"data": 1}, {"data": 2}]
