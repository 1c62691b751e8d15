"""Whether a merge is right, in words: what its report's figures mean."""

from __future__ import annotations

from typing import Literal

from danlu.export.merge import MergeReport
from danlu.language import _

# Above this the rounding of the merged weights shows in some answers.
_CLOSE_KL = 1e-3


def merge_verdict(report: MergeReport) -> tuple[Literal["right", "rounded", "nothing"], str]:
    """Judge a merge: it is right, its weights round what was learned, or nothing was learned."""
    if report.num_merged_tensors == 0:
        return "nothing", _(
            "ATTENTION: the merged model is the base: the adapter has learned nothing"
        )
    if report.mean_kl > _CLOSE_KL:
        return "rounded", _(
            "The merge is usable: the merged model answers almost like base and adapter; its "
            "{dtype} weights round what was learned"
        ).format(dtype=report.dtype)
    return "right", _("The merge is right: the merged model answers like base and adapter")


def merge_figures(report: MergeReport) -> str:
    """Write the figures that the verdict rests on."""
    return _(
        "{count} tensors changed; {tokens} tokens compared in {dtype}: same top token {top1:.1%}, "
        "largest logit difference {difference:.4f}, KL {kl:.1e}"
    ).format(
        count=report.num_merged_tensors,
        tokens=report.num_probe_tokens,
        dtype=report.verified_in,
        difference=report.max_logit_difference,
        top1=report.top1_agreement,
        kl=report.mean_kl,
    )


def merge_remarks(report: MergeReport) -> list[str]:
    """Say where the adapter was trained on other numbers than those that it was added to."""
    if not report.trained_on:
        return []
    return [
        _(
            "Trained on the base in {forms}, added to the model's own weights: they are not "
            "quantised."
        ).format(forms=", ".join(report.trained_on))
    ]


def merge_summary(report: MergeReport) -> str:
    """Say in one line whether the merge is right, and by which figures."""
    verdict, figures = merge_verdict(report)[1], merge_figures(report)
    return _("{verdict} ({figures})").format(verdict=verdict, figures=figures)
