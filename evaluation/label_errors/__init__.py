"""Which labels are wrong: their quality, kinds of errors, ranking and contact sheet."""
