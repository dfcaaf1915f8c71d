"""marljax: raw level-2 order books to a traded, risk-controlled portfolio, as pure JAX functions."""

__version__ = "0.1.0"
