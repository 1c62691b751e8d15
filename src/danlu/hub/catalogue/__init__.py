"""The published Qwen3 models: what there is, what each needs here, where it is downloaded from."""
