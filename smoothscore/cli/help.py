"""How commands show their options."""

import re
from argparse import Action

from jsonargparse import DefaultHelpFormatter

from smoothscore.neighbors import Extractor


class OwnExtractors(DefaultHelpFormatter):
    """Of a thousand known torch modules names those that are extractors."""

    def _expand_help(self, action: Action) -> str:
        text = super()._expand_help(action)
        known = re.search(r"known subclasses: (torch\.nn\.Module,[^)]*)", text)
        if known is None:
            return text
        own = {f"smoothscore.neighbors.{one.__name__}" for one in Extractor.__subclasses__()}
        extractors = [name for name in known[1].split(", ") if name in own]
        return text.replace(known[1], f"{', '.join(extractors)}, and any torch.nn.Module")
