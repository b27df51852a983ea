"""Transformations of the IR: model in, model out."""
