"""The output folder, which appears whole or not at all, and takes nothing with it that no run wrote.

While a run is on its way, two entries stand beside the output folder OUT: `OUT.lock`, which only one run can hold, and
`OUT.unfinished`, in which the folder grows that becomes OUT at the end. A run that is killed leaves both; the next run
with the same output removes them.
"""
