"""More than one process encodes: parts of a source, each to a shard, by a frozen model."""
