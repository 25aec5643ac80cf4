"""What people look at: curves as CSV, plots as PNG, a table for the terminal, everything as JSON.

``write.write_report`` makes all of it from a ``data.RunData``; the numbers come from ``harness.scoring``
and are computed once (``numbers.compute``), so no two outputs can disagree.
"""
