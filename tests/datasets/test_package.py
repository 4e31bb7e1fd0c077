"""The package's name, which Hugging Face's `datasets` has as well."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

import datasets


@pytest.mark.parametrize("statement", ["from datasets import load_dataset", "from datasets import Dataset"])
def test_a_name_of_the_other_package_is_answered_in_one_sentence(statement):
    with pytest.raises(ImportError, match="belongs to Hugging Face's package `datasets`.*environment") as error:
        exec(statement)
    assert "\n" not in str(error.value)


def test_so_is_a_module_of_the_other_package():
    with pytest.raises(ModuleNotFoundError, match="datasets.arrow_dataset belongs to Hugging Face"):
        importlib.import_module("datasets.arrow_dataset")
    with pytest.raises(ModuleNotFoundError, match="datasets.arrow_dataset belongs to Hugging Face"):
        importlib.import_module("cleanlab.datalab.internal.data")


def test_other_names_stay_what_they_are():
    assert importlib.import_module("datasets.lists").read_list
    assert not hasattr(datasets, "no_such_name")
    assert importlib.util.find_spec("datasets.no_such_module") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'datasets.no_such_module'"):
        importlib.import_module("datasets.no_such_module")
