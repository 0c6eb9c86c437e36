"""Starts one server so that nobody has to reap it, and, when asked, so that it cannot outlive its owner.

Run as a script (`python -I -S launcher.py SPEC`), standard library only: it must start in milliseconds and must not
depend on what the caller can import. Linux only. The SPEC is a JSON object: `command` (list of str), `data`, `log`,
`record_file` and `guard` (paths), `record` (what to store; the pid is added here), `guard_wait_s` (float), `caller_pid`
and `owned` (whether the server ends with the caller).

Why a process of its own. A server must be tied to its owner even through SIGKILL, which no handler in the owner can
see. PR_SET_PDEATHSIG set on the server by the owner would do, but the kernel sends that signal when the *thread* that
forked ends, so a server started from a worker thread would die with the thread; and setting it needs a preexec_fn,
which may deadlock in a process that has threads. A pipe from owner to watchdog stays open in every forked child of
the owner. So this single-threaded process stands between: it polls the identity of the owner (the caller), and its own
death takes the server along by PR_SET_PDEATHSIG, which is safe here because there is only one thread.

Who holds what. The server process itself opens the guard file, takes its flock, writes its own pid to the record and
then executes the server. Hence: the guard is held exactly as long as a server runs (SIGKILL and power loss included,
and seen from other containers too), and there is no moment at which a server runs that no record names.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

__all__ = ["main"]

POLL_S = 0.1
STOP_WAIT_S = 15.0
PR_SET_PDEATHSIG = 1


def start_ticks(pid: int) -> str | None:
    """When the process started, in clock ticks since boot: with the pid, its identity. None when it is dead."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The second field is the program name in parentheses and may itself contain spaces and parentheses.
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else ticks


def take_guard(path: str, wait_s: float) -> None:
    """Hold the flock of `path` for the rest of this process's life. Exits with a message when another holds it."""
    guard = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(guard, True)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(
                    f"a server that this process cannot see still uses the directory: it holds {path}"
                    f" (another container or user? `fuser {path}` names it). Stop it there first"
                )
        time.sleep(POLL_S / 5)


def become_server(spec: dict[str, Any], caller_ticks: str) -> NoReturn:
    """Turn this process into the server. Standard output must be the pipe on which the caller awaits bad news."""
    take_guard(spec["guard"], spec["guard_wait_s"])
    if start_ticks(spec["caller_pid"]) != caller_ticks:
        # With the caller its lock went: somebody may have come `down` since, and must not see a server rise again.
        sys.exit("the process that wanted the server has died")
    record_file = spec["record_file"]
    with open(f"{record_file}.new", "w", encoding="utf-8") as record:
        json.dump({**spec["record"], "pid": os.getpid()}, record)
    os.replace(f"{record_file}.new", record_file)
    # One earlier log is kept: enough to see why the last server died, and the logs cannot grow without bound.
    if os.path.exists(spec["log"]):
        os.replace(spec["log"], f"{spec['log']}.1")
    os.chdir(spec["data"])
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pipe = os.dup(1)  # not inheritable: a successful exec closes it, which tells the caller that all is well
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A caller may start servers from a thread that blocks signals; the server must still hear SIGTERM.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execv(spec["command"][0], spec["command"])
    except OSError as error:
        os.write(pipe, f"{spec['command'][0]} cannot be executed: {error}".encode())
        os._exit(1)


def supervise(spec: dict[str, Any], caller_ticks: str) -> None:
    """Run the server as a child until it ends, or until the caller is gone."""
    supervisor_pid = os.getpid()
    server_pid = os.fork()
    if server_pid == 0:
        # SIGKILL, because if the supervisor is shot there is nobody left to insist.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor_pid:
            os._exit(1)
        become_server(spec, caller_ticks)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    while start_ticks(spec["caller_pid"]) == caller_ticks:
        if os.waitpid(server_pid, os.WNOHANG)[0]:
            return
        time.sleep(POLL_S)
    os.kill(server_pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WAIT_S
    while not os.waitpid(server_pid, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(server_pid, signal.SIGKILL)
        time.sleep(POLL_S)


def main(arguments: list[str]) -> None:
    """Start the server described by the JSON object in `arguments[0]`."""
    spec = json.loads(arguments[0])
    caller_ticks = start_ticks(spec["caller_pid"])
    if caller_ticks is None or os.getppid() != spec["caller_pid"]:
        return  # The caller is dead already. Asked after reading the ticks, so they are its own and no successor's.
    if os.fork():
        # The caller reaps this process; what goes on is adopted by init, and leaves the caller no zombie to reap.
        os._exit(0)
    os.setsid()  # Ctrl-C in the caller's terminal must not reach the server.
    if spec["owned"]:
        supervise(spec, caller_ticks)
    else:
        become_server(spec, caller_ticks)


if __name__ == "__main__":
    main(sys.argv[1:])
