"""The output folder, which appears whole or not at all, and takes nothing with it that no run wrote.

While a run is on its way, up to three entries stand beside the output folder OUT: `OUT.lock`, which only one run can
hold; `OUT.unfinished`, in which the folder grows that becomes OUT at the end; and `OUT.journal`, the records of what is
done. A run that is killed leaves them; the next run with the same output removes the first two and goes on with the
third. A run whose model gets a name of its own puts that beside OUT, in the same step as far as anybody sees
(`beside.py`).
"""
