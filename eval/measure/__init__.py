"""Searching, measuring, and what is kept of it."""
