"""`backtest-kit-worker check`: one look at the deployment, as an exit code and lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from backtest_kit_mongo.exits import ExitCode
from backtest_kit_worker import roles
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.health import Monitor


def examine(deployment: Deployment, names: Sequence[str], lag_ms: float) -> tuple[ExitCode, list[str]]:
    """Look at everything once; returns the most urgent finding and a line for each."""
    snapshot = Monitor(deployment).snapshot()
    findings = [(ExitCode.UNREACHABLE, f"no answer from {server}") for server in snapshot.unreachable]
    if findings:
        return findings[0][0], [line for _, line in findings]
    lines = [f"{snapshot.entry_count} entries in the feed"]
    built = [roles.build_role(name, deployment) for name in names]
    for name in (role.name for role in built if role is not None):
        group = snapshot.groups.get(name)
        if group is None:
            findings.append((ExitCode.NEVER_RAN, f"{name}: no consumer group; start a worker with --roles {name}"))
        elif group.lag_ms > lag_ms:
            behind = f"{group.owed_count} entries, {group.lag_ms / 1000:.1f} s behind"
            findings.append((ExitCode.LAGGING, f"{name}: {behind}, more than {lag_ms / 1000:g} s"))
        else:
            lines.append(f"{name}: {group.owed_count} entries, {group.lag_ms / 1000:.1f} s behind")
    for name, count in snapshot.parked.items():
        findings.append((ExitCode.DEAD_LETTERS, f"{name}: {count} parked; `bkm park list` shows them"))
    for name, group in snapshot.groups.items():
        if group.is_abandoned:
            findings.append((ExitCode.ABANDONED, f"{name}: nobody serves it; `bkm stream status` says what to do"))
    findings += [(ExitCode.TROUBLE, f"{each.name}: {each.seen}. {each.advice}") for each in snapshot.troubles]
    code = min((code for code, _ in findings), default=ExitCode.DONE)
    return code, lines + [line for _, line in findings]
