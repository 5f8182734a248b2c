"""Learned product codes in native FAISS indexes."""
