"""Which code this machine's CPU can run."""

from __future__ import annotations

import pytest

from edgec.devices.selection import host_arch
from edgec.targets.profile import Profile, load_profile

__all__ = ["need_vectors_of"]


def need_vectors_of(profile: Profile) -> None:
    """Skip where code for the profile would run on this CPU, and it lacks AVX-512, which QEMU does not have either."""
    needed = {name for name in profile.required_features if name.startswith("avx512")}
    missing = needed - set(load_profile("native").required_features)
    if profile.arch == host_arch() and missing:
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
