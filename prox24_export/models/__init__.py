"""The kinds of models that can be pruned, and the front ends that read and write them."""
