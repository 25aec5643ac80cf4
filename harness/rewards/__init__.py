"""Reward models: what a second model thinks of each finished chain, as one number.

``scorer.load_scorer`` is the door; ``prm`` and ``classifier`` are the two kinds, ``log`` the file beside the verdicts.
Nothing here knows an answer or a verdict. What is made of the numbers: ``harness.scoring.best_of``.
"""
