"""The one family of errors a user may meet. The command line turns each into one line and an exit code."""

from __future__ import annotations


class MprError(Exception):
    """Something the user can understand and act upon. Its text says what, where, expected and got, what to do."""

    exit_code = 1


class InputError(MprError):
    """A file, option or table the user gave cannot be used as it is."""

    exit_code = 2


class SeriesError(MprError):
    """One tilt series cannot be processed; the run goes on without it."""


class NotSeen(SeriesError):
    """No particle of a species can be seen in a tilt series; others may be."""


class PopulationError(MprError):
    """The population's own files are missing, locked, or contradict one another."""

    exit_code = 2


class DiskFull(MprError):
    """There is no space left where something has to be written; when there is, the same command continues."""


class TooManyFailed(MprError):
    """More tilt series failed than the user said to bear; the same command tries them again."""


class Interrupted(MprError):
    """The run was stopped cleanly; the same command continues it."""

    exit_code = 130
