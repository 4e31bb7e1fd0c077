"""Garbage collection pauses while modules are imported, and only then."""

from __future__ import annotations

import gc

import pytest

from utils.startup import collection_paused


def test_collection_pauses_and_goes_on_after_an_error_too():
    assert gc.isenabled()
    with pytest.raises(KeyError), collection_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_a_collection_that_was_off_stays_off():
    gc.disable()
    try:
        with collection_paused(), collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
