"""One set of operations over every native index."""
