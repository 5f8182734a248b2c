"""An encoder, an objective, a method and a data set for faiss-pqvae, from outside of it."""
