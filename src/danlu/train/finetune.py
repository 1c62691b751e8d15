"""One fine-tuning job from settings to a finished run folder.

Order matters to a user: data is read and checked before gigabytes of weights are loaded, the
output folder is taken before anything is computed, and run.json says how far it came whatever
happens.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.data.datasets import Row, load_rows
from danlu.data.examples import Example, TokenCost, token_cost, tokenize_rows
from danlu.data.order import split
from danlu.device.detect import Device, select
from danlu.errors import DataError, UsageError
from danlu.language import _
from danlu.lora.adapter import LoraConfig, target_list
from danlu.models.load import STARTER, LoadedModel, load_model, model_folder
from danlu.runs.checkpoints import FINAL, commit_final, find_newest, publish_final
from danlu.runs.curve import draw_loss_curve
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest, State
from danlu.text.tokenizer import Tokenizer
from danlu.train.events import Event, Saved
from danlu.train.method import FullMethod, LoraMethod, Method
from danlu.train.settings import TrainSettings
from danlu.train.trainer import Interrupted, Recipe, Trainer, steps_per_epoch

DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
