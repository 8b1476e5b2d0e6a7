"""The errors users meet: each says what was found, what was expected and what to do."""


class OnceEditError(Exception):
    """Base of every error this library raises on purpose; `exit_code` is the command line's."""

    exit_code = 1


class InputError(OnceEditError):
    """The input is at fault: a file, a line, a tensor, a setting."""

    exit_code = 2


class RunError(OnceEditError):
    """A run that started well could not finish."""
