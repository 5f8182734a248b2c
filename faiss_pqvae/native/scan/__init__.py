"""Exact scans over codes."""
