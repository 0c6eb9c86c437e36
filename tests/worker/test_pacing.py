"""A loop that is behind rests while others write, and only then."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from backtest_kit_worker.pacing import FIRST_LOOK_S, LOOK_S, REST_MAX_S, Pace, Sight

SHARE_MIN = 0.25
TOOK_S = 0.1


class Feed:
    """Answers looks from a list of (end, waiting) or (end, waiting, kept from), and keeps the time."""

    def __init__(self, sights: Iterable[tuple[int, ...]]) -> None:
        self.sights = [Sight(*sight) for sight in sights]
        self.now_s = 0.0
        self.look_count = 0
        self.pace = Pace(self.look, SHARE_MIN, lambda: self.now_s)

    def look(self) -> Sight:
        self.look_count += 1
        return self.sights[min(self.look_count, len(self.sights)) - 1]

    def rest_s(self, *, is_full: bool = True) -> float:
        """The rest after a batch, a look later than the last one."""
        self.now_s += LOOK_S
        return self.pace.rest_s(TOOK_S, is_full=is_full)


def test_a_loop_that_keeps_up_never_rests_and_never_looks() -> None:
    feed = Feed([(1, 0)])

    assert [feed.rest_s(is_full=False) for _ in range(5)] == [0.0] * 5
    assert feed.look_count == 0


def test_behind_with_nobody_writing_it_works_at_full_speed_once_it_knows() -> None:
    feed = Feed([(7, 5_000), (7, 4_000)])

    assert feed.rest_s() == FIRST_LOOK_S
    assert feed.rest_s() == 0.0


def test_two_looks_follow_each_other_quickly_and_later_ones_do_not() -> None:
    feed = Feed([(7, 5_000)])

    for _ in range(10):
        feed.now_s += FIRST_LOOK_S
        feed.pace.rest_s(TOOK_S, is_full=True)

    assert feed.look_count == 2


def test_catching_up_beside_writers_it_works_the_lowest_share_of_the_time() -> None:
    feed = Feed((number, 5_000 - number) for number in range(10))

    assert [feed.rest_s() for _ in range(10)][1:] == [pytest.approx(3 * TOOK_S)] * 9


def test_between_rests_it_takes_smaller_batches_and_at_full_speed_whole_ones() -> None:
    feed = Feed([(0, 50), (1, 49), (1, 48)])
    sizes = [feed.pace.batch_max(1_000)]
    for _ in range(3):
        feed.rest_s()
        sizes.append(feed.pace.batch_max(1_000))
    feed.rest_s(is_full=False)

    assert [*sizes, feed.pace.batch_max(1_000)] == [1_000, 250, 250, 1_000, 1_000]


def test_a_feed_busier_than_a_resting_loop_can_follow_is_followed_at_full_speed() -> None:
    feed = Feed((number, 5_000 + number) for number in range(3))

    assert [feed.rest_s() for _ in range(3)] == [FIRST_LOOK_S, pytest.approx(TOOK_S), 0.0]


def test_the_share_shrinks_again_only_once_what_shrinking_cost_is_made_up_for() -> None:
    waiting = [50, 51, 52, 49, 57, 55, 53, 51, 48]
    feed = Feed(enumerate(waiting))
    shares = []
    for _ in waiting:
        feed.rest_s()
        shares.append(feed.pace.share)

    assert shares == [0.25, 0.5, 1.0, 0.8, 1.0, 1.0, 1.0, 1.0, 0.8]


@pytest.mark.parametrize("added_per_s", [100, 2_500, 4_800])
def test_no_feed_that_full_speed_can_follow_is_fallen_behind_for_ever(added_per_s: int) -> None:
    now_s, done = 0.0, 0

    def added() -> int:
        return 50_000 + int(now_s * added_per_s)

    pace = Pace(lambda: Sight(added(), added() - done), clock_s=lambda: now_s)
    while now_s < 300:
        taken = min(pace.batch_max(1_000), added() - done)
        took_s = taken / 5_000
        is_full = taken == pace.batch_max(1_000)
        done += taken
        now_s += took_s
        now_s += pace.rest_s(took_s, is_full=is_full) or 0.001

    assert added() - done < 60_000


def test_where_trimming_hides_how_much_waits_the_loop_does_not_slow_down() -> None:
    feed = Feed([(0, 50, 1), (1, 40, 1), (2, 10, 9)])

    assert [feed.rest_s() for _ in range(3)][1:] == [pytest.approx(3 * TOOK_S), pytest.approx(TOOK_S)]


def test_having_caught_up_some_it_slows_down_step_by_step() -> None:
    feed = Feed([(0, 10), (1, 11), (2, 12), (3, 10), (4, 9), (5, 8)])

    shares = [TOOK_S / (TOOK_S + feed.rest_s()) for _ in range(6)]

    assert shares[1:] == pytest.approx([0.5, 1.0, 0.8, 0.64, 0.512])


def test_a_batch_that_a_server_held_up_is_not_followed_by_a_rest_as_long() -> None:
    feed = Feed([(1, 10), (2, 9)])

    feed.rest_s()
    feed.now_s += LOOK_S

    assert feed.pace.rest_s(60.0, is_full=True) == REST_MAX_S


def test_a_share_of_one_never_rests() -> None:
    pace = Pace(lambda: pytest.fail("looked"), share_min=1)

    assert pace.rest_s(TOOK_S, is_full=True) == 0.0
