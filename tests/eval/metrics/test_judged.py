"""Metrics of judged relevance against TREC's own program, on 200 random cases, ties included."""

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG

from faiss_pqvae.eval.data.judged import judged_scores
from faiss_pqvae.eval.data.qrels import as_qrels
from faiss_pqvae.eval.measure.trust import order_ties

MEASURES = {
    "ndcg@10": nDCG @ 10,
    "ndcg@100": nDCG @ 100,
    "mrr@10": RR,  # of all ranks: cut below, since a cut one is not trec_eval's
    "hit@10": Success @ 10,
    "precision@10": P @ 10,
    "recall@10": R @ 10,
    "recall@100": R @ 100,
    "map@100/R": AP @ 100,
}


def random_case(seed):
    """Judgements of every query, and D, I (nq, k) of a search with many equal distances."""
    rng = np.random.default_rng(seed)
    nq, n = int(rng.integers(1, 6)), int(rng.integers(100, 150))
    judged = rng.random((nq, n)) < rng.choice([0.02, 0.2, 0.8])
    judged[np.arange(nq), rng.integers(0, n, nq)] = True  # TREC leaves out who has none
    grades = rng.integers(0, rng.integers(2, 5), (nq, n))
    grades[np.arange(nq), judged.argmax(axis=1)] = 1
    queries, items = np.nonzero(judged)
    rows = np.stack([queries, items, grades[queries, items]], axis=1)
    D = np.sort(rng.integers(0, rng.integers(2, 200), (nq, 100)), axis=1).astype(np.float32)
    I = np.stack([rng.permutation(n)[:100] for _ in range(nq)])  # noqa: E741
    return rows, D, I


@pytest.mark.parametrize("block", range(4))
def test_judged_scores__agree_with_trec_eval(block):
    for seed in range(50 * block, 50 * block + 50):
        rows, D, I = random_case(seed)  # noqa: E741
        D, I = order_ties(D, I)  # noqa: E741
        found = judged_scores(as_qrels(rows), I, 100)
        assert found.keys() == MEASURES.keys()
        # trec_eval ranks equal scores by falling names: names that fall as ids rise.
        name = "{:06d}".format
        run = {
            name(q): {
                name(999_999 - i): -float(d) for i, d in zip(I[q].tolist(), D[q], strict=True)
            }
            for q in range(len(I))
        }
        qrels = {name(q): {} for q in range(len(I))}
        for q, item, grade in rows.tolist():
            qrels[name(q)][name(999_999 - item)] = grade
        expected = {metric: np.zeros(len(I)) for metric in MEASURES}
        of_measure = {measure: metric for metric, measure in MEASURES.items()}
        for one in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
            expected[of_measure[one.measure]][int(one.query_id)] = one.value
        expected["mrr@10"][expected["mrr@10"] < 1 / 10] = 0
        for metric, values in expected.items():
            np.testing.assert_allclose(found[metric], values, rtol=0, atol=1e-9, err_msg=metric)


def test_judged_scores__as_far_as_k_allows():
    qrels = as_qrels([(0, 3, 1)])
    I = np.arange(10)[None]  # noqa: E741
    assert judged_scores(qrels, I, 9) == {}
    assert judged_scores(qrels, I, 10).keys() == {
        *("ndcg@10", "mrr@10", "hit@10", "precision@10", "recall@10")
    }
    assert judged_scores(qrels, I, 10)["mrr@10"].tolist() == [1 / 4]
