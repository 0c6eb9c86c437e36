"""The change feed for consumers of your own: dashboards, alerts, exports, other databases.

    from backtest_kit_mongo.feed.consume import consume

    with consume("risk-desk", ["signal", "risk"]) as feed:
        for event in feed:
            print(event.written_at, event.domain, event.key, event.rev, event.payload)
            event.ack()

See `consume` for what is promised.
"""

from backtest_kit_mongo.feed.consume.change_feed import ChangeFeed
from backtest_kit_mongo.feed.consume.errors import FeedClosed, TooManyUnacknowledged
from backtest_kit_mongo.feed.consume.event import ChangeEvent
from backtest_kit_mongo.feed.consume.opening import consume, forget

__all__ = ["ChangeEvent", "ChangeFeed", "FeedClosed", "TooManyUnacknowledged", "consume", "forget"]
