"""Who does the work of a stage: this process, its GPUs, or workers; to the same bits."""
