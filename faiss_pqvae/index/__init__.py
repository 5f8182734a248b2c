"""Where model and FAISS meet: the index, its grammar and factory, bundles, export and GPU."""
