"""What a training reads: items, views of them, batches with classes in them."""
