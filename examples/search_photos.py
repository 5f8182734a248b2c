"""Search a folder of photographs by some of them, with codes of 8 bytes, and write a page.

pip install "faiss-pqvae[cpu,images,backbone]"
python examples/search_photos.py PHOTOS --page photos.html
"""

import base64
import html
import io
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import faiss_pqvae as fpq
from faiss_pqvae.data.open import ImageOptions, open_source

STYLE = """body{font:15px system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
.row{display:flex;gap:.6rem;padding:.9rem 0;border-bottom:1px solid #ddd;overflow-x:auto}
figure{margin:0;flex:none;width:140px}figure:first-child{border-right:3px solid #2a6}
img{width:134px;border-radius:4px}figcaption{font-size:12px;overflow-wrap:anywhere}"""


def figure(pixels: np.ndarray, caption: str) -> str:
    """A picture of the page, (3, h, w) uint8, and what stands below."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=85)
    data, text = base64.b64encode(buffer.getvalue()).decode(), html.escape(caption)
    shown = f'<img src="data:image/jpeg;base64,{data}">'
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"


def main(photos: Path, page: Path = Path("photos.html"), n: int = 12, k: int = 6) -> None:
    """Keeps n photographs of a folder out, and searches for them among the others."""
    options = ImageOptions(size=(224, 224), mode="RGB", crop=True, skip_broken=True)
    source = open_source(photos, images=options)
    pixels, names = source[np.arange(len(source))], np.array([path.name for path in source.paths])
    asked = np.arange(len(pixels)) % max(1, len(pixels) // n) == 0
    stored, queries = pixels[~asked], pixels[asked][:n]

    code = f"PCA{min(64, len(stored) // 16 * 16)},PQVAE16x4"  # 8 bytes a photograph
    index = fpq.index_factory((3, 224, 224), code, encoder="efficientnet-lite0")
    index.train(stored)
    index.add(stored)
    D, I = index.search(queries, k)

    others, own = names[~asked], names[asked]
    rows = ""
    for query, name, *found in zip(queries, own, I, D, strict=False):
        near = [(stored[i], f"{others[i]} ({d:.2f})") for i, d in zip(*found, strict=True)]
        shown = "".join(figure(*each) for each in [(query, name), *near])
        rows += f'<div class="row">{shown}</div>'
    page.write_text(f"<!doctype html><title>Photos</title><style>{STYLE}</style>{rows}", "utf-8")
    print(f"{len(queries)} photographs, searched for among {len(stored):,} others: {page}")


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(main))
