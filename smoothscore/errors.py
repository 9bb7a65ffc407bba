"""The one exception for what a user can put right."""

import re


class UserError(ValueError):
    """An error that the user caused and can mend: one paragraph that names the culprit and the cure.

    The command line prints its text without a traceback (unless ``SMOOTHSCORE_DEBUG=1``) and exits with status 1.
    """


def why_unreadable(error: BaseException) -> str:
    """Why `torch.load` refused a file, in a few words; where the file asks for code to be run, which code."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return f"it asks for {asked[1]} to be run"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:2])  # a state dict that does not fit is named in the second
