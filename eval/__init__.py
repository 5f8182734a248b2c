"""Evaluation: labelled data, baselines, metrics, results and the report."""
