"""Facts that a report states: on the machine and its versions, and on the files that a run has read."""
