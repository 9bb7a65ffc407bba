"""smoothscore: diffusion models whose score is smoothed on purpose, and the measures of what that wins.

Three nouns: a *score* moves a point, *neighbors* are the training images that a smoothed target may look at, a
*sampler* turns noise into an image by following a score. Source: arXiv 2601.19285.
"""

__version__ = "0.1.0"
