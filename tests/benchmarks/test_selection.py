"""What choosing by the queries that measure gains, of methods whose merits are known."""

import numpy as np
import selection


def _hits(rates: list[float], nq: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((len(rates), nq)) < np.array(rates)[:, None]


def test_gained__of_equal_methods_is_luck() -> None:
    few, many = (selection.gained(_hits([0.3] * 20), n) for n in (100, 1000))
    assert few["n_queries"] == 100
    assert few["chosen"] > few["others"] + 0.06  # nearly two standard errors of .046
    assert few["chosen"] - few["others"] > 2.5 * (many["chosen"] - many["others"])
    assert abs(few["others"] - 0.3) < 0.01


def test_gained__of_one_that_is_better_is_little() -> None:
    found = selection.gained(_hits([0.3, 0.3, 0.6]), 1000)
    assert abs(found["chosen"] - 0.6) < 0.01
    assert abs(found["chosen"] - found["others"]) < 0.01
