"""Searching for the settings of a model on validation items."""
