"""The values that settings name are those that the device knows."""

from __future__ import annotations

from typing import get_args

from danlu.device.detect import DTYPES, KINDS
from danlu.hub.settings import DeviceName, DtypeName


def test_the_names_are_the_devices_own() -> None:
    device, dtype = (get_args(get_args(name)[0]) for name in (DeviceName, DtypeName))
    assert device == ("auto", *KINDS)
    assert dtype == tuple(DTYPES)
