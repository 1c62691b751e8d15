"""The page of training: its form, its plan, and the queue of trainings."""
