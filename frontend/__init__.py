"""Into and out of the IR: trace, import, execute."""
