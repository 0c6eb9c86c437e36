"""A database that was set back under a worker: noticed, recorded, and what is written afterwards has its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.integration.support import eventually
from tests.integration.test_eras_on_servers import saved, set_back
from tests.worker.recovery_support import Bed, bed_for

from backtest_kit_mongo.embedded import Endpoints

pytestmark = pytest.mark.live


@pytest.fixture
def bed(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_restore") as made:
        yield made


def counted(bed: Bed) -> int:
    found = bed.mongo["cache-identity"].find_one()
    assert found is not None
    return int(found["eras"][0]["count"])


def test_revisions_that_are_given_out_again_are_recorded_and_the_restore_is_reported(bed: Bed) -> None:
    bed.write(1)
    bed.work_until(lambda: bed.data() == [1])
    files = saved(bed.mongo)
    count = counted(bed)
    eventually(lambda: counted(bed) > count)
    bed.write(2)
    bed.write(3)
    set_back(bed.mongo, files)
    # These two are in the feed still, and would be taken for the revisions 2 and 3.

    def is_reported() -> object:
        bed.work(audit=False)
        return bed.mongo["audit-items"].find_one({"operation": "restore"})

    eventually(is_reported)
    restored = bed.mongo["audit-items"].find_one({"operation": "restore"})
    assert restored is not None
    assert "was set back" in restored["reason"]
    assert "dropped: 3 of" in restored["reason"]
    assert bed.recovery.counts["restore"] == 1
    bed.write(4)
    bed.catch_up()
    (second,) = [record for record in bed.records(operation="upsert") if record["rev"] == 2]
    assert second["payload"] == {"data": 4}
    assert bed.mongo["cache-identity"].find_one()["restores"][0]["recorded"] is True  # type: ignore[index]
