"""`python -m faiss_pqvae`, the same as `faiss-pqvae`."""

from faiss_pqvae.cli import main

if __name__ == "__main__":
    main()
