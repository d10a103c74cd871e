"""Run all checks, one after another; a check that raises is a finding, and the others continue."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from srum_core.doctor import answering, cost, flow_convention, generation, geometry, subject
from srum_core.doctor.findings import Cost, Finding
from srum_core.doctor.subject import Subject
from srum_core.errors import SrumError
from srum_core.protocols import UnifiedModel
from srum_core.runs.run import Run


@frozen
class Examination:
    findings: list[Finding]
    costs: list[Cost]
    estimate: str = ""


def examine(
    run: Run, model: UnifiedModel, folder: Path, images: Path | None, tell: Callable[[Finding], None]
) -> Examination:
    """Run every check of a model.

    folder      where to write the images that the model generates
    images      folder of images to use instead
    tell        is called with each finding at once

    Raises what reading or generating the images raises."""
    take = subject.with_own_images if images is None else subject.with_given_images
    examined = take(run, model, folder if images is None else images)
    findings: list[Finding] = []
    costs: list[Cost] = []

    def measure(subject: Subject) -> list[Finding]:
        taken_costs, findings = cost.measure(subject)
        costs.extend(taken_costs)
        return findings

    checks: dict[str, Callable[[Subject], list[Finding]]] = {
        "sign and time": flow_convention.check,
        "latents": geometry.check,
        "generation": generation.check,
        "answers": answering.check,
        "speed": measure,
    }
    for name, check in checks.items():
        try:
            results = check(examined)
        except SrumError as error:
            results = [Finding(name, "wrong", str(error))]
        except Exception as error:  # of the adapter
            traceback.print_exc()
            message = f"The check broke down with {type(error).__name__}: {error} (the traceback is above)."
            results = [Finding(name, "wrong", message)]
        findings += results
        for finding in results:
            tell(finding)
    return Examination(findings, costs, cost.estimate(examined, costs) if costs else "")
