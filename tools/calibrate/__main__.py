"""Calibrate a depth model: `python -m tools.calibrate --checkpoint PATH --out FILE [--split val] [KEY=VALUE ...]`.

A model that has learnt with one camera is off by a factor and an offset with another. Both are found in one least-
squares fit, true depth = scale * predicted depth + shift, over all measured pixels of a split, and written into a new
checkpoint (its setting model.calibration). Whatever loads that applies them: eval.py, tools.predict, Predictor,
tools.export_onnx. The weights stay as they are.
KEY=VALUE name the data of the new camera, such as data.root=DIR. Prints the errors before, without any calibration, and
after. They are of the split that was fitted: --split train, the default, leaves the other one for an honest score.
"""

from argparse import Namespace
from math import inf
from pathlib import Path
from typing import Any

from config import parse_with_overrides
from errors import ArgumentParser, UserError, read_early, run_command


def read_arguments() -> Namespace:
    """The arguments of the command. Raises UserError."""
    parser = ArgumentParser(prog="tools.calibrate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run folder, a checkpoint, a published model")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new checkpoint, a .pt file")
    parser.add_argument("--split", choices=["train", "val"], default="train", help="what to fit to (default: train)")
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--cfg", type=Path, help="the configuration (default: that of the checkpoint)")
    return parse_with_overrides(parser)


if __name__ == "__main__":  # before the imports below, which take seconds
    read_early(read_arguments)

from datasets.loading import evaluation_loader
from eval import evaluate
from models.depthformer.finish import CalibrationConfig, Finish
from models.depthformer.model import DepthFormer
from models.probe.model import DepthProbe
from runtime.checkpoint import save_checkpoint
from runtime.distributed import start_processes
from runtime.shutdown import exit_together
from tools.calibrate.fit import ScaleAndShift
from workflow.results import check_writable
from workflow.trained import find_checkpoint, keep_memory, load_trained


@exit_together()
def main() -> None:
    """Run the command."""
    arguments = read_arguments()

    out: Path = arguments.out
    path = find_checkpoint(arguments.checkpoint, arguments.which)
    if out.suffix != ".pt" or out.resolve() == path.resolve() or out.resolve().parent.name == "checkpoints":
        what = "must be a .pt file, and neither the checkpoint itself nor among those of a run"
        raise UserError(f"--out {out}", what, "name another, such as calibrated.pt")
    check_writable(out)
    experiment, model, step = load_trained(path, arguments.cfg, arguments.overrides)
    if not isinstance(model, DepthFormer | DepthProbe):
        what = f"is of the task {experiment.data.info.task}; this takes checkpoints of depth models"
        raise UserError(path, what, "name one")
    keep_memory(experiment)
    processes = start_processes(experiment.system.device, experiment.system.backend)
    inference = experiment.inference(model.to(processes.device))
    batches = evaluation_loader(
        experiment.data.build(arguments.split),
        inference.transforms,
        batch_size=experiment.evaluation.batch_size,
        size_divisor=inference.size_divisor,
        rank=processes.rank,
        world_size=processes.count,
        workers=experiment.system.workers,
        pin_memory=processes.device.type == "cuda",
    )

    def predict(finish: Finish, fit: ScaleAndShift | None = None) -> dict[str, float]:
        """The errors with this last step; add the predictions to the fit, if given."""
        model.finish = finish
        metrics = experiment.build_metrics()
        with experiment.arithmetic(processes.device):
            evaluate(inference, batches, [*metrics, fit] if fit else metrics, processes)
        if fit:
            fit.compute()  # before metrics complain that nothing was measured
        return {name: value for metric in metrics for name, value in metric.compute().items()}

    nearest, farthest = model.finish.nearest, model.finish.farthest
    fit = ScaleAndShift()
    before = predict(Finish(-inf, inf), fit)  # metrics clamp by themselves; what is clamped would bend the fit
    calibration = CalibrationConfig(**fit.compute())
    after = predict(Finish(nearest, farthest, calibration))
    if not processes.is_main:
        return
    settings = experiment.dump()
    settings["model"]["calibration"] = calibration.model_dump()
    about: dict[str, Any] = {"split": arguments.split, "images": fit.images, "pixels": fit.pixels}
    about |= {"data": str(experiment.data.root), "before": before, "after": after}
    state = {"config": settings, "model": model.state_dict(), "ema": None, "step": step, "calibration": about}
    save_checkpoint(state, out)
    print(f"scale       {calibration.scale:.6g}")
    print(f"shift       {calibration.shift:.6g} m")
    print(f"fitted to   {fit.pixels:,} measured pixels of {fit.images} images ({arguments.split})")
    print(f"{'':>10}    before     after")
    for name, value in after.items():
        print(f"{name:>10} {before[name]:9.4f} {value:9.4f}")
    print(f"written to  {out}")


if __name__ == "__main__":
    run_command(main)
