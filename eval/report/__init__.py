"""The page that shows a comparison."""

from faiss_pqvae.extras import import_extra

for _library in ("jinja2", "matplotlib", "PIL"):
    import_extra(_library, "for the report")
