"""What the seconds bought: the metrics of ``docs/log.md`` computed from trajectories and verdicts.

Everything here is plain arithmetic on arrays: no clock is read, no file opened, no model touched.
Start at ``table.SampleTable.from_records``; every other module takes such a table. Values per
problem are arrays of shape (problems, grid) so that one resampler serves every metric.
"""
