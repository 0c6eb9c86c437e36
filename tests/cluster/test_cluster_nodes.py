"""Which node a command is sent to, and on to which: decided without a server."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import AskError, MovedError, NoScriptError, TryAgainError

from backtest_kit_mongo.backends.redis.cluster import ClusterClient, ClusterLink
from backtest_kit_mongo.backends.redis.link import Script
from backtest_kit_mongo.backends.redis.nodes import Address, ClusterNodes, key_of, slot_of
from backtest_kit_mongo.coherence.keys import channels, names

A, B = ("a", 1), ("b", 2)
SLOT = slot_of("k")


class FakeNodes(ClusterNodes):
    """A cluster whose first half of the slots A serves. What is asked of a node is answered by the test's script."""

    def __init__(self, patience_s: float = 0.0) -> None:
        def opened(host: str, port: int) -> Any:
            return FakeServer((host, port), self)

        super().__init__([A], opened, patience_s)
        self.down: set[Address] = set()
        self.asked: list[Address] = []
        self.primary = A


class FakeServer:
    def __init__(self, address: Address, nodes: FakeNodes) -> None:
        self._address, self._nodes = address, nodes
        self.connection_pool = None

    def execute_command(self, *command: Any) -> Any:
        self._nodes.asked.append(self._address)
        if self._address in self._nodes.down:
            raise redis.ConnectionError("refused")
        assert command == ("CLUSTER", "SLOTS")
        host, port = self._nodes.primary
        return [
            [0, 8_191, [host.encode(), port, b"id"], [b"replica", 9, b"id"]],
            [8_192, 16_383, [B[0].encode(), B[1], b"id"]],
        ]

    def close(self) -> None:
        return


@pytest.fixture
def nodes() -> FakeNodes:
    return FakeNodes()


class Sent:
    """Answers in turn; notes to whom it was sent."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.to: list[tuple[Address, bool]] = []

    def __call__(self, address: Address, asking: bool) -> Any:
        self.to.append((address, asking))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), "k"),
        (("XADD", "k", "*", "e", b"v"), "k"),
        (("EVALSHA", "sha", 2, "k", "l", "argument"), "k"),
        (("XREADGROUP", b"GROUP", "g", "c", "COUNT", 1, b"STREAMS", "k", ">"), "k"),
        (("XINFO GROUPS", "k"), "k"),
        (("TIME",), ""),
    ],
)
def test_the_key_of_a_command(command: tuple[Any, ...], key: str) -> None:
    assert key_of(command) == key


def test_all_names_of_a_partition_are_of_one_slot_and_partitions_of_several() -> None:
    of_document = names("db{x}", 8, "state", ("{other}", "b"))
    (p,) = [found for found in channels("db{x}", 8, ["state"], "process") if found.born == of_document.born]
    assert len({slot_of(name) for name in (*of_document, p.heartbeats, *p.numbers)}) == 1
    assert len({slot_of(found.born) for found in channels("db", 8, ["state"], "process")}) == 8


def test_the_map_is_asked_for_once_and_again_after_a_failure(nodes: FakeNodes) -> None:
    assert [nodes.owner(0), nodes.owner(9_000), nodes.primaries()] == [A, B, [A, B]]
    assert nodes.asked == [A]
    nodes.suspect(A)
    nodes.down, nodes.primary = {A}, ("promoted", 3)
    assert nodes.owner(0) == ("promoted", 3)
    assert nodes.asked == [A, B]


def test_if_no_node_answers_that_is_said(nodes: FakeNodes) -> None:
    nodes.down = {A}
    with pytest.raises(redis.ConnectionError, match="no node of the cluster answers; the last one asked said: refused"):
        nodes.owner(0)


def test_a_slot_that_moved_is_followed_and_remembered(nodes: FakeNodes) -> None:
    send = Sent(MovedError(f"{SLOT} c:3"), "done")
    nodes.owner(SLOT)
    assert nodes.follow(SLOT, send, may_ask=False) == "done"
    assert send.to[1:] == [(("c", 3), False)]
    assert nodes.owner(SLOT) == ("c", 3)


def test_a_plain_command_asks_the_receiving_node_once(nodes: FakeNodes) -> None:
    home = nodes.owner(SLOT)
    send = Sent(AskError(f"{SLOT} c:3"), "done", "next")
    assert nodes.follow(SLOT, send, may_ask=True) == "done"
    assert nodes.follow(SLOT, send, may_ask=True) == "next"
    assert send.to == [(home, False), (("c", 3), True), (home, False)]


def test_a_script_waits_for_the_slot_and_never_asks_the_receiving_node() -> None:
    nodes = FakeNodes(patience_s=5)
    send = Sent(AskError(f"{SLOT} c:3"), TryAgainError("rehashing"), MovedError(f"{SLOT} c:3"), "done")
    assert nodes.follow(SLOT, send, may_ask=False) == "done"
    assert [asking for _, asking in send.to] == [False] * 4
    assert [to == ("c", 3) for to, _ in send.to] == [False, False, False, True]


def test_waiting_for_a_slot_ends(nodes: FakeNodes) -> None:
    send = Sent(*[AskError(f"{SLOT} c:3")] * 3)
    with pytest.raises(AskError):
        nodes.follow(SLOT, send, may_ask=False)


def test_a_lost_connection_is_never_repeated_here(nodes: FakeNodes) -> None:
    home = nodes.owner(SLOT)
    send = Sent(redis.ConnectionError("reset"), "done")
    with pytest.raises(redis.ConnectionError, match="reset"):
        nodes.follow(SLOT, send, may_ask=True)
    assert send.to == [(home, False)]
    nodes.owner(SLOT)
    assert nodes.asked == [A, B if home == A else A]


class FakeLink:
    """A node's link: answers in turn, and what it was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[Any] = []

    def execute_many(self, commands: Any, *, judges: bool) -> list[Any]:
        self.sent.append(list(commands))
        if isinstance(self.answers[0], Exception) and not isinstance(self.answers[0], redis.ResponseError):
            raise self.answers.pop(0)
        return [self.answers.pop(0) for _ in commands]

    def drop_idle(self) -> None:
        return


def link(nodes: FakeNodes, **links: FakeLink) -> ClusterLink:
    made: Any = ClusterLink(nodes)
    made._links = {address: links[address[0]] for address in (A, B, ("c", 3)) if address[0] in links}
    of_cluster: ClusterLink = made
    return of_cluster


def key_on(nodes: FakeNodes, address: Address) -> str:
    return next(f"k{n}" for n in range(100) if nodes.owner(slot_of(f"k{n}")) == address)


def test_a_packet_is_split_by_node_and_answered_in_its_order(nodes: FakeNodes) -> None:
    on_a, on_b = key_on(nodes, A), key_on(nodes, B)
    a, b = FakeLink(1, 3), FakeLink(2)
    commands = [("GET", on_a), ("GET", on_b), ("GET", on_a)]
    assert link(nodes, a=a, b=b).execute_many(commands) == [1, 2, 3]
    assert (a.sent, b.sent) == ([[commands[0], commands[2]]], [[commands[1]]])


def test_of_a_packet_only_what_was_refused_is_sent_on(nodes: FakeNodes) -> None:
    on_a = key_on(nodes, A)
    a, c = FakeLink(1, MovedError(f"{slot_of(on_a)} c:3"), MovedError(f"{slot_of(on_a)} c:3")), FakeLink(2)
    commands = [("XADD", on_a, "1"), ("XADD", on_a, "2")]
    assert link(nodes, a=a, c=c).execute_many(commands) == [1, 2]
    assert c.sent == [[commands[1]]]


def test_the_first_error_of_a_packet_is_raised_after_all_was_sent(nodes: FakeNodes) -> None:
    on_a, on_b = key_on(nodes, A), key_on(nodes, B)
    a, b = FakeLink(redis.ResponseError("wrong"), 1), FakeLink(2)
    with pytest.raises(redis.ResponseError, match="wrong"):
        link(nodes, a=a, b=b).execute_many([("GET", on_a), ("GET", on_b)])
    assert b.sent == [[("GET", on_b)]]


def test_a_node_that_was_silent_is_left_alone_for_a_moment(nodes: FakeNodes) -> None:
    on_a = key_on(nodes, A)
    a = FakeLink(redis.TimeoutError("silent"))
    cluster = link(nodes, a=a)
    with pytest.raises(redis.TimeoutError):
        cluster.execute("GET", on_a)
    with pytest.raises(redis.ConnectionError, match="a:1 did not answer a moment ago"):
        cluster.execute("GET", on_a)
    assert len(a.sent) == 1


def test_scripts_are_sent_in_their_form_for_clusters_and_as_source_where_unknown(nodes: FakeNodes) -> None:
    on_a = key_on(nodes, A)
    script, a = Script("incarnation"), FakeLink(NoScriptError("unknown"), b"id")
    assert link(nodes, a=a).run(script, [on_a], []) == b"id"
    (first,), (second,) = a.sent
    assert first[:2] == ("EVALSHA", script.in_cluster.sha)
    assert second[:2] == ("EVAL", script.in_cluster.source)
    assert "cluster_my_epoch" in script.in_cluster.source
    assert script.in_cluster.sha != script.sha


def test_what_no_node_can_answer_for_all_is_refused() -> None:
    nodes: Any = ClusterNodes([A], lambda host, port: redis.Redis(host=host, port=port), 0.0)
    with ClusterClient(nodes, A) as client:
        with pytest.raises(redis.DataError, match="scan_iter"):
            client.scan()
        with pytest.raises(redis.DataError, match="no transaction"):
            client.pipeline(transaction=True)
