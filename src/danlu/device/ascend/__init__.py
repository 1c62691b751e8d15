"""Ascend NPUs: the machine's files, versions that fit together, chips, torch_npu. No torch here."""
