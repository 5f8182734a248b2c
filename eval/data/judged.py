"""What rankings are worth by judged relevance."""

from __future__ import annotations

from faiss_pqvae.types import DoubleArray, IdArray

from ..metrics.first_hit import hit_at_k, reciprocal_rank_at_k
from ..metrics.ndcg import ndcg_at_k
from ..metrics.precision import average_precision_at_k, precision_at_k, recall_at_k
from .qrels import Qrels

FIRST_K, DEEP_K = 10, 100  # what people look at, and what a second stage is handed


def judged_scores(qrels: Qrels, I: IdArray, k: int) -> dict[str, DoubleArray]:  # noqa: E741
    """Scores of every query by its judgements; a query with nothing relevant has 0.

    nDCG has the grades; to all others a grade above 0 is relevant. The names are those of TREC's
    measures but for "map@100/R": an average precision over the first 100, divided by R, the number
    of all relevant items.

    Args:
        qrels: the judgements.
        I: (nq, at least k) int64, positions in the database, best first; -1 is nothing.
        k: how many ranks there are.

    Returns:
        By metric (nq,) float64: "ndcg@10", "mrr@10", "hit@10", "precision@10", "recall@10" and
        "ndcg@100", "recall@100", "map@100/R", as far as k allows.
    """
    found: dict[str, DoubleArray] = {}
    deepest = min(k, DEEP_K)
    grades = qrels.grades_of(I[:, :deepest])
    ideal = qrels.ideal(len(I), deepest)
    n_relevant = qrels.n_relevant(len(I))
    relevant = grades > 0
    if k >= FIRST_K:
        found = {
            f"ndcg@{FIRST_K}": ndcg_at_k(grades, ideal, FIRST_K),
            f"mrr@{FIRST_K}": reciprocal_rank_at_k(relevant, FIRST_K),
            f"hit@{FIRST_K}": hit_at_k(relevant, FIRST_K),
            f"precision@{FIRST_K}": precision_at_k(relevant, FIRST_K),
            f"recall@{FIRST_K}": recall_at_k(relevant, FIRST_K, n_relevant),
        }
    if k >= DEEP_K:
        found |= {
            f"ndcg@{DEEP_K}": ndcg_at_k(grades, ideal, DEEP_K),
            f"recall@{DEEP_K}": recall_at_k(relevant, DEEP_K, n_relevant),
            f"map@{DEEP_K}/R": average_precision_at_k(relevant, DEEP_K, n_relevant, "R"),
        }
    return found
