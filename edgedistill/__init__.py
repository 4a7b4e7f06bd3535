"""EdgeDistill: a big teacher in, a small signed int8 student on every edge node out."""

__version__ = "0.1.0"
