"""What is evaluated: items, queries and what is relevant to them."""
