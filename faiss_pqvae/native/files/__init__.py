"""Files that FAISS wrote, and what is believed of them."""
