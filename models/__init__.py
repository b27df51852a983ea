"""Reference networks and the data they train on."""
