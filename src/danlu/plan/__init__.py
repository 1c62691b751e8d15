"""What a run will need, before it starts: memory, time, and how a step is best computed.

`memory` and `speed` are formulas over a `Job` and an `StepPlan`; `workload` says what the data
ask for; `choose` picks the arithmetic; `calibrate` corrects the formulas by what tiny steps took.
StepPlan only: knows no files, no torch, and does not know who runs the steps.
"""
