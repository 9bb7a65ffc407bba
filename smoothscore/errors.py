"""The one exception for what a user can put right."""


class UserError(ValueError):
    """An error that the user caused and can mend: one paragraph that names the culprit and the cure.

    The command line prints its text without a traceback (unless ``SMOOTHSCORE_DEBUG=1``) and exits with status 1.
    """
