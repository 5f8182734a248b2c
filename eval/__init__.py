"""Evaluation: data sets, methods, metrics, results and the report."""

from .data.load import load

__all__ = ["load"]
