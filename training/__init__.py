"""Training of the models of `faiss_pqvae`."""
