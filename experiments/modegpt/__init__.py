"""Structured compression of language models, without training."""
