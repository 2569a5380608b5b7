"""Loaders for model folders of other libraries."""
