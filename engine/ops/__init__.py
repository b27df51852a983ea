"""The primitives, one file per family."""
