"""The decoder's second look at candidates, where the codes are: in one batch on a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.index.refine import Decoder
from faiss_pqvae.index.short_list import ShortList
from faiss_pqvae.model.additive import Lifted, lowered
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.scan.torch_scan import TorchScan, nothing_at

_CHUNK_BYTES = 2**28  # of decoded candidates at a time


class CodeDecoder:
    """Candidates as the decoder sees them, as `refine.Decoder` has it on the CPU.

    Args:
        model: on the device.
        scan: of its codes, there, too.

    Attributes:
        least_k: results that candidates are taken for, at least.
        listed: results of the tables for each candidate.
    """

    def __init__(self, model: PQVAE, scan: TorchScan) -> None:
        self.model, self.scan = model, scan
        self.metric_type = scan.metric_type
        decoder = model.code_decoder
        self.least_k = Decoder.least_k
        self.listed = 1
        if isinstance(decoder, ConditionalCode) and self.metric_type == faiss.METRIC_L2:
            self.listed = ShortList.per_candidate
            lifted = Lifted(model.quantizer.codewords.detach(), decoder.offset)
            self._tables, self._shrinks = lowered(lifted, decoder.centre), decoder.table_shrinks

    @torch.inference_mode()
    def refined(
        self, queries: Tensor, D: Tensor, places: Tensor, n: int, k: int
    ) -> tuple[Tensor, Tensor]:
        """The k best of every query's candidates.

        Args:
            queries: (nq, d) float32, see `queries_of`.
            D: (nq, m) float32, distances of the scan.
            places: (nq, m) int64, likewise in order; -1 where there is none.
            n: candidates that are decoded, k <= n <= m.
            k: results of each query.

        Returns:
            D (nq, k) float32 and places (nq, k) int64.
        """
        least = self.metric_type == faiss.METRIC_L2
        if n < places.shape[1]:
            lacking = torch.cat([self._lacking(part) for part in self._parts(places)])
            D = (D + lacking.view_as(D)).masked_fill_(places < 0, torch.inf)
            places = places.gather(1, D.topk(n, dim=1, largest=False).indices)
        rows = torch.arange(len(queries), device=places.device).repeat_interleave(n)
        compared = []
        for part, own in zip(self._parts(places), self._parts(rows), strict=True):
            vectors, asked = self._decoded(part), queries[own]
            if least:
                compared.append((asked - vectors).square().sum(-1))
            else:
                compared.append((asked * vectors).sum(-1))
        found = torch.cat(compared).view(places.shape)
        found.masked_fill_(places < 0, nothing_at(self.metric_type))
        order = found.argsort(dim=1, descending=not least, stable=True)[:, :k]
        return found.gather(1, order), places.gather(1, order)

    @torch.inference_mode()
    def queries_of(self, inputs: Tensor) -> Tensor:
        """What decoded items are compared with: (n, *input_shape) to (n, d) float32."""
        return self._unit(self.model.normalize(inputs).flatten(1))

    def _parts(self, places: Tensor) -> tuple[Tensor, ...]:
        """All of places, of any shape, as many at a time as are decoded together."""
        n = max(1, _CHUNK_BYTES // (4 * math.prod(self.model.input_shape)))
        return torch.split(places.flatten().clamp(min=0), n)

    def _lacking(self, places: Tensor) -> Tensor:
        """What distances by tables lack of those to sums, for codes at places (n,): (n,) float32.

        Unlike in `ShortList` the sums are made: on a GPU that is no more than looking up pairs.
        """
        vectors, lengths = self._tables.sums(self.scan.codewords_of(places))
        return self._shrinks * vectors.square().sum(1) - lengths

    def _decoded(self, places: Tensor) -> Tensor:
        """The items (n, d) of codes at places (n,), as queries are compared with them."""
        model, decoder = self.model, self.model.code_decoder
        ids, centroids = self.scan.codewords_of(places), self.scan.centroids_of(places)
        if decoder is None:
            z = model.quantized(ids)
            z = z if centroids is None else z + centroids
            return self._unit(model.decoder(z).float().flatten(1))
        decoded = decoder.compared(ids)
        if centroids is not None:
            decoded = decoded + model.summed(centroids)
        return self._unit(decoded)

    def _unit(self, x: Tensor) -> Tensor:
        return functional.normalize(x) if self.model.spec.is_unit else x
