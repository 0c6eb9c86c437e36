"""`backtest-kit-worker check`: one look at the deployment, as an exit code and lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from backtest_kit_worker import roles
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.health import Monitor


class CheckExit(IntEnum):
    """Exit codes of `check`; of several findings the first in this order."""

    WELL = 0
    """Servers answer, every role has a group and keeps up, nothing is parked."""
    UNREACHABLE = 10
    """A server does not answer."""
    NEVER_RAN = 11
    """A role has no consumer group: no worker with it ever ran here, or the feed was flushed since."""
    LAGGING = 12
    """A role is further behind than allowed."""
    PARKED = 13
    """Entries are parked; see `bkm park list`."""
    ABANDONED = 14
    """A group that owes something is served by nobody and holds back trimming; see `bkm stream status`."""
    TROUBLE = 15
    """Work stands still, or something is not what it should be; `bkm doctor` says what to do."""


def examine(deployment: Deployment, names: Sequence[str], lag_ms: float) -> tuple[CheckExit, list[str]]:
    """Look at everything once; returns the most urgent finding and a line for each."""
    snapshot = Monitor(deployment).snapshot()
    findings = [(CheckExit.UNREACHABLE, f"no answer from {server}") for server in snapshot.unreachable]
    if findings:
        return findings[0][0], [line for _, line in findings]
    lines = [f"{snapshot.entry_count} entries in the feed"]
    built = [roles.build_role(name, deployment) for name in names]
    for name in (role.name for role in built if role is not None):
        group = snapshot.groups.get(name)
        if group is None:
            findings.append((CheckExit.NEVER_RAN, f"{name}: no consumer group; start a worker with --roles {name}"))
        elif group.lag_ms > lag_ms:
            behind = f"{group.owed_count} entries, {group.lag_ms / 1000:.1f} s behind"
            findings.append((CheckExit.LAGGING, f"{name}: {behind}, more than {lag_ms / 1000:g} s"))
        else:
            lines.append(f"{name}: {group.owed_count} entries, {group.lag_ms / 1000:.1f} s behind")
    for name, count in snapshot.parked.items():
        findings.append((CheckExit.PARKED, f"{name}: {count} parked; `bkm park list` shows them"))
    for name, group in snapshot.groups.items():
        if group.is_abandoned:
            findings.append((CheckExit.ABANDONED, f"{name}: nobody serves it; `bkm stream status` says what to do"))
    findings += [(CheckExit.TROUBLE, f"{each.name}: {each.seen}. {each.advice}") for each in snapshot.troubles]
    code = min((code for code, _ in findings), default=CheckExit.WELL)
    return code, lines + [line for _, line in findings]
