"""What is compared, one file a method, ours among them."""
