"""Text as model inputs and vectors: tokenizing and pooling."""

from nograd.text.tokenizing import Tokenize

__all__ = ["Tokenize"]
