"""A training run so small that it can be repeated hundreds of times, and what it must end with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from danlu.hub.load import LoadedModel
from danlu.lora.adapter import LoraConfig
from danlu.runs.checkpoints import find_newest
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import is_run
from danlu.train.events import Event
from danlu.train.loop.method import LoraMethod
from danlu.train.loop.trainer import Trainer
from danlu.train.recipe import Recipe
from tests.helpers.training.run_scenarios import MANIFEST
from tests.helpers.training.trainers import RECIPE, STEP_PLAN, loaded_tiny, random_rows

SMALL = replace(
    RECIPE, total_steps=4, rows_per_step=2, eval_steps=2, save_steps=2, save_total_limit=1
)
CONFIG = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.1, target_modules=("q_proj",))


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    """A recipe on a model that is loaded once."""

    base: LoadedModel
    recipe: Recipe = SMALL

    @classmethod
    def on_model_in(cls, folder: Path, recipe: Recipe = SMALL) -> SmallRun:
        """Make the model."""
        return cls(base=loaded_tiny(folder), recipe=recipe)

    def trainer(self, folder: RunFolder) -> Trainer:
        """Build a trainer with a fresh adapter."""
        return Trainer(
            method=LoraMethod.fresh(self.base, CONFIG, seed=self.recipe.seed),
            recipe=self.recipe,
            step_plan=STEP_PLAN,
            train_rows=random_rows(7),
            eval_rows=random_rows(2, seed=1),
            run_folder=folder,
        )

    @contextmanager
    def opened(self, path: Path) -> Iterator[Trainer]:
        """Open a run as `danlu train` does: go on where there is a checkpoint, else start anew."""
        newest = find_newest(path).newest
        resumes = newest is not None and is_run(path)
        with RunFolder.reopen(path) if resumes else RunFolder.create(path, overwrite=True) as run:
            if not resumes:
                run.write(MANIFEST)
            trainer = self.trainer(run)
            if resumes and newest is not None:
                trainer.resume(newest.step)
            yield trainer

    def train(self, path: Path) -> Trainer:
        """Run to the end, from where it stands."""
        with self.opened(path) as trainer:
            for _event in trainer.run():
                pass
        return trainer

    def events(self, path: Path) -> Iterator[Event]:
        """Run to the end and yield what happens."""
        with self.opened(path) as trainer:
            yield from trainer.run()
