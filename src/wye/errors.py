"""The one base of the errors that wye raises on purpose."""


class WyeError(ValueError):
    """Something was given that wye cannot work with.

    The message says what was given, what was expected and what to do. The command line prints it
    without a traceback; everything else that reaches the command line is a defect and keeps its
    traceback.
    """
