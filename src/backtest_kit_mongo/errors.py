"""Every error of the package, split first by whose fault it is.

A class exists only where a caller can react to it specifically. Each docstring says whether the write may have
happened, because that is what the caller of a trading system has to know first.

    BacktestKitError
    |- CallerError            your call was wrong; nothing was written
    |- Conflict               another writer was first; nothing was written
    |- EnvironmentFault       a server, a disk or a configuration outside this program
    |- CorruptData            what is stored cannot be read
    `- InvariantViolation     our bug
"""

from __future__ import annotations


class BacktestKitError(Exception):
    """Base of all errors that this package raises on purpose."""


class CallerError(BacktestKitError):
    """The call was wrong. Nothing was written."""


class InvalidKey(CallerError, ValueError):
    """A key field has the wrong type or value. Nothing was written, no server was asked."""


class InvalidPayload(CallerError, ValueError):
    """A payload cannot be stored (wrong type, non-finite price, missing candle column, too large).

    Nothing was written.
    """


class InvalidSetting(CallerError, ValueError):
    """A setting is unknown, has a wrong value, or contradicts another. Nothing was connected."""


class AlreadySetUp(CallerError, RuntimeError):
    """`setup()` was called again with other settings while the first ones are in use.

    Nothing changed; call `shutdown()` first.
    """


class NotSetUp(CallerError, RuntimeError):
    """The call needs `setup()` first. Nothing was written."""


class LookAhead(CallerError, RuntimeError):
    """At a simulation time (`simulation_time`) something was read that was written or closes later, or written with a
    later time. The message names it. Nothing was read or written.
    """


class NotFound(CallerError, LookupError):
    """What was named does not exist: a document of `BaseCRUD`, a file of candles. Nothing was written."""


class Conflict(BacktestKitError):
    """A document does not have the revision that was expected: another writer was first. Nothing was written. Read
    again, decide anew, and write with the revision that was read.
    """


class EnvironmentFault(BacktestKitError):
    """Something outside this program failed."""


class ServerUnreachable(EnvironmentFault, ConnectionError):
    """MongoDB (or Redis under `CC_ON_REDIS_DOWN=fail`) cannot be reached. The write did not happen and will not."""


class WriteRefused(EnvironmentFault):
    """The server refused the write for certain (permissions, validation rule, ...). It did not happen and will not."""


class WriteTooLate(WriteRefused):
    """The write reached MongoDB after its deadline (it was held up on its way, or the server's clock was set ahead),
    and MongoDB refused it. It did not happen and will not; try again.
    """


class Contended(WriteRefused):
    """Others wrote the documents of this step until the time for it was over. It did not happen and will not; try
    again.
    """


class WriteOutcomeUnknown(EnvironmentFault):
    """The connection broke or time ran out after the write was sent. It may have happened, or may still happen.

    The message says for how many ms: what has not happened by then never will. Of a list, some rows may have been
    written. Read the value to learn which; repeating the same write is safe.
    """


class ReadFailed(EnvironmentFault):
    """A read failed at the server. Nothing was written."""


class LegacyIndex(EnvironmentFault):
    """A unique index of an older release forbids valid documents, or an index cannot be built.

    Nothing was written by this call, except where the message says that some rows of a list were. It names the index
    and the command that fixes it.
    """


class UnsafeServer(EnvironmentFault):
    """A server is configured so that a promise of this package would be broken (for example a Redis that may evict
    leases). Nothing was written.
    """


class CorruptData(BacktestKitError):
    """A stored value cannot be decoded. Nothing was written; the stored bytes were left as they are."""


class InvariantViolation(BacktestKitError):
    """A numbered invariant of `coherence/invariants.py` does not hold: a bug in this package. The message names it."""
