"""What can go wrong with the embedded servers, distinguished by what the caller can do about it."""

from backtest_kit_mongo.errors import EnvironmentFault

__all__ = ["DirectoryBusyError", "EmbeddedError", "NotInstalledError", "ServerFailedError"]


class EmbeddedError(EnvironmentFault):
    """Base of all errors of the embedded servers. None of them means that stored data was changed."""


class NotInstalledError(EmbeddedError):
    """This machine cannot run a server: its binary or a shared library is missing. The text names what to install."""


class ServerFailedError(EmbeddedError):
    """A server did not start or stop as asked, in the given time. The text quotes the end of the server's own log."""


class DirectoryBusyError(EmbeddedError):
    """The data directory could not be used: not writable, or other processes hold it. Trying again may help."""
