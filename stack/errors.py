"""The launcher's one error."""


class StackError(Exception):
    """What went wrong and what to do about it, in one line for the person at the terminal; the exit code is 1."""
