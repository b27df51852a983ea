"""Data sets that the recipes train on. Nothing is downloaded: a missing file is an error that says where to get it."""
