"""Tuning records that come with the package: one file per CPU, ``<cpu>-<instruction set>.json``."""
