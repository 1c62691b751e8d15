"""What a run will need, before it starts: memory, time, and how a step is best computed.

`memory` and `speed` are formulas over a `Job` and a `StepPlan`; `workload` describes the data's
lengths; `choose` picks the step plan; `calibrate` corrects the formulas by measured probes.
Figures only: must not know files, torch, or what runs the steps.
"""
