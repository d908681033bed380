"""Draw what each upsampler does at an edge, for docs/upsamplers.md: `python -m tools.show_sampling.gallery`.

Each is trained alone, for a moment, as if it stood in a network for segmentation. x holds the classes of an embedded
scene as colours, blurred and at half the size, and mixtures of the 3 x 3 pixels around; the guide holds such mixtures
of the image; the goal is the sharp map of classes. A picture shows x, the result, and what is read for four pixels.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.scenes import SCENE_CLASSES
from datasets.scenes.write import Settings, render_scene
from errors import ArgumentParser, run_command
from pictures.canvas import as_tuple, palette, tile
from tools.show_sampling.drawing import Panels, View, draw_arrows, draw_kernel, draw_points, output_centres
from tools.show_sampling.stages import Stage
from upsamplers import Upsampler, build_upsampler
from upsamplers.base import shuffle

PICTURES = {  # the sections of docs/upsamplers.md
    "interpolation": ("nearest", "bilinear"),
    "convolution": ("deconv", "pixelshuffle"),
    "carafe": ("carafe",),
    "indexnet": ("indexnet",),
    "a2u": ("a2u",),
    "fade": ("fade", "fade-lite"),
    "sapa": ("sapa",),
    "sapa-d": ("sapa-d",),
    "dysample": ("naive", "dysample"),
    "fam": ("fam",),
    "lda_aqu": ("lda_aqu",),
    "resfu": ("resfu",),
    "freqfusion": ("freqfusion",),
}
FIXED = PICTURES["interpolation"] + PICTURES["convolution"]  # the same sum everywhere
SCENE, SIZE = 2, (48, 64)  # its number, height and width
GROUPS, MIXTURES, GUIDE = 8, 5, 32  # of x: channel groups, each the colour and so many mixtures; channels of the guide
LEARNING_RATE = 2e-3
REGION = (40, 18, 20, 20)  # a ball on a table: left, top, width and height in pixels of the scene
PANEL = 200  # pixels


class SceneColours(NamedTuple):
    """A scene as an image and as a map of classes, both colours [1, 3, H, W] in -1..1."""

    image: Tensor
    classes: Tensor


def render_colours() -> SceneColours:
    """Render the scene."""
    found = render_scene(Settings(train=SCENE + 1, val=1, size=SIZE, seed=0), "train", SCENE)[1]
    pictures = found.rgb, palette(len(SCENE_CLASSES) + 1)[found.label]
    return SceneColours(*(torch.from_numpy(each).permute(2, 0, 1)[None] / 127.5 - 1 for each in pictures))


def features(scene: SceneColours) -> tuple[Tensor, Tensor]:
    """What an upsampler gets: x [1, C, H/2, W/2] and the guide [1, G, H, W]."""
    generator = torch.Generator().manual_seed(0)
    blurred = F.avg_pool2d(scene.classes, 4, stride=2, padding=1, count_include_pad=False)
    mixed = _mixtures(blurred, GROUPS * MIXTURES, generator).unflatten(1, (GROUPS, MIXTURES))
    x = torch.cat([blurred[:, None].expand(-1, GROUPS, -1, -1, -1), mixed], dim=2).flatten(1, 2)
    return x, _mixtures(scene.image, GUIDE, generator)


def _mixtures(colours: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random mixtures of the 3 x 3 pixels around each, rectified."""
    around = F.unfold(F.pad(colours, (1, 1, 1, 1), "replicate"), 3).unflatten(2, colours.shape[2:])
    weights = torch.randn(count, around.shape[1], generator=generator) / around.shape[1] ** 0.5
    return torch.einsum("nchw,mc->nmhw", around, weights).relu()


def colours_of(x: Tensor) -> Tensor:
    """The colours that features [N, C, H, W] hold: the mean of those in their groups."""
    return x.unflatten(1, (GROUPS, -1))[:, :, :3].mean(1)


def trained(name: str, scene: SceneColours, steps: int) -> Upsampler:
    """The upsampler after so many steps on the scene."""
    torch.manual_seed(0)
    x, guide = features(scene)
    upsampler = build_upsampler(name, x.shape[1], GUIDE)
    parameters = list(upsampler.parameters())
    if parameters:
        optimizer = torch.optim.AdamW(parameters, LEARNING_RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            (colours_of(upsampler(x, guide)) - scene.classes).square().mean().backward()
            optimizer.step()
    return upsampler.eval()


def as_picture(colours: Tensor) -> np.ndarray:
    """Colours [3, H, W] in -1..1 as RGB uint8."""
    return ((colours.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def draw_upsampler(name: str, upsampler: Upsampler, scene: SceneColours) -> Panels:
    """Panels of the result in the region, and of what it reads there."""
    x, guide = features(scene)
    output = upsampler(x, guide)
    stage = Stage(name, upsampler, x, upsampler.prepare_guide(x, guide), output, (x.shape[2], x.shape[3]))
    view = make_view(scene)
    panels = {name: view.crop_of_map(as_picture(colours_of(output)[0]), 2)}
    if name in FIXED:
        return panels | {f"{name}: of one pixel": draw_response(stage, view)}
    return panels | draw_points_read(stage, view) | draw_kernels(stage, view)


def make_view(scene: SceneColours) -> View:
    """The view of the region."""
    return View(as_picture(scene.image[0]), np.array([2, 2]), REGION)


def chosen_pixels() -> list[tuple[int, int]]:
    """(column, row) of four output pixels, so that windows of five pixels of x around them fill the region."""
    left, top, width, height = REGION
    return [(left + width * i // 4, top + height * j // 4) for j in (1, 3) for i in (1, 3)]


def draw_points_read(stage: Stage, view: View) -> Panels:
    """The points of four pixels in the first group with their weights, or without weights those of all pixels."""
    found = [found for found in (stage.weighted_points(*place) for place in chosen_pixels()) if found is not None]
    if found:
        drawn = view.crop_with_pixels()
        for pixel, colour in zip(found, palette(len(found)), strict=True):
            centre = view.on_panel((np.array([pixel.column, pixel.row]) + 0.5) / 2)
            places = view.on_panel(pixel.positions[0])
            drawn = draw_points(drawn, centre, places, pixel.weights[0], as_tuple(colour))
        return {f"{stage.name}: weighted points": drawn}
    starts, points = stage.initial_points(), stage.sampling_points()
    if starts is None or points is None:
        return {}
    shown = view.contains(output_centres(points.shape[1], points.shape[2], 2))
    ends = view.on_panel(starts[0][shown]), view.on_panel(points[0][shown])
    return {f"{stage.name}: points": draw_arrows(view.crop_with_pixels(), *ends, as_tuple(palette(1)[0]))}


def draw_kernels(stage: Stage, view: View) -> Panels:
    """The kernels of four pixels; of windows of one pixel, the weights of all."""
    weights = stage.upsampler.kernels(stage.x, stage.guide)
    if weights is None:
        return {}
    drawn = view.crop_with_pixels()
    if weights.shape[2] == 1:  # IndexNet's map
        left, top, width, height = REGION
        maps = shuffle(weights[:, :, 0], 2)[0, 0, top : top + height, left : left + width].numpy()
        window, nowhere = view.on_panel(view.corners / view.stride), np.array([-99.0, -99.0])
        return {f"{stage.name}: weights": draw_kernel(drawn, maps, window, nowhere, 1.0)}
    kernels = [kernel for kernel in (stage.kernel(*place) for place in chosen_pixels()) if kernel is not None]
    largest = max(float(kernel.weights.max()) for kernel in kernels)
    for column, row, scale, kernel in kernels:
        first = np.array([column // scale, row // scale]) - len(kernel) // 2
        window = view.on_panel(np.stack([first, first + len(kernel)]))
        drawn = draw_kernel(drawn, kernel, window, view.on_panel((np.array([column, row]) + 0.5) / scale), largest)
    return {f"{stage.name}: kernels to {largest:.2f}": drawn}


def draw_response(stage: Stage, view: View) -> np.ndarray:
    """How the result changes if one pixel of x is brighter, on grey."""
    x, (left, top, width, height) = stage.x, REGION
    brighter = x.clone()
    brighter.unflatten(1, (GROUPS, -1))[:, :, :3, (top + height // 2) // 2, (left + width // 2) // 2] += 1
    change = stage.upsampler(brighter, stage.guide) - stage.output
    return view.crop_of_map(as_picture(colours_of(change)[0]), 2)


def draw_strip(names: tuple[str, ...], scene: SceneColours, steps: int) -> np.ndarray:
    """Panels of the image, of x, and of each upsampler, side by side."""
    view = make_view(scene)
    panels = {"image": view.crop(), "x": view.crop_of_map(as_picture(colours_of(features(scene)[0])[0]), 1)}
    for name in names:
        upsampler = trained(name, scene, steps)
        with torch.inference_mode():
            panels |= draw_upsampler(name, upsampler, scene)
    small = {name: cv2.resize(panel, (PANEL, PANEL), interpolation=cv2.INTER_AREA) for name, panel in panels.items()}
    return tile(small, {})


def main() -> None:
    """Run the command."""
    parser = ArgumentParser(prog="tools.show_sampling.gallery", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images/upsamplers"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=300, help="of training (default: %(default)s)")
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"default: all of {', '.join(PICTURES)}")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # more are no faster with maps so small, and might round differently
    scene = render_colours()
    for picture in arguments.pictures or PICTURES:
        path = arguments.out / f"{picture}.webp"
        Image.fromarray(draw_strip(PICTURES[picture], scene, arguments.steps)).save(path, quality=80, method=6)
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    run_command(main)
