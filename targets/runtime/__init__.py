"""The C runtime: what every artifact is linked with. See edgec.h."""
