"""Made folders in each format, with the quirks of its exporters. Each function fills an empty folder."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from datasets.files.png import voc_colours

WIDTH, HEIGHT = 48, 32
BOM = "\ufeff"
CW = 6  # EXIF: to be turned clockwise by 90 degrees


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    low = np.random.default_rng(seed).integers(0, 255, (4, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(low).resize(size, Image.Resampling.BICUBIC).save(path, kind, exif=exif)
    return path


def text(path: Path, content: str, bom: bool = False, crlf: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.replace("\n", "\r\n") if crlf else content
    path.write_bytes(((BOM if bom else "") + content).encode())
    return path


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def coco(root: Path, images: int = 6) -> dict:
    """A plain COCO file with two classes in images/ and a box with mask in each of three corners."""
    records, annotations = [], []
    for number in range(images):
        picture(root / f"images/photo_{number}.JPG", number)
        records.append({"id": number, "file_name": f"photo_{number}.JPG", "width": WIDTH, "height": HEIGHT})
        for place in range(3):
            x, y, side = 4 + 14 * place, 3 + 5 * place, 8 + place
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": place % 2,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [square(x, y, side)],
                }
            )
    return {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "screw"}, {"id": 1, "name": "nut"}],
    }


def cvat(root: Path) -> None:
    """CVAT: annotations/instances_default.json, and every form of a segmentation."""
    content = coco(root)
    for one in content["annotations"]:
        one.pop("iscrowd")
    runs = [5, 40, WIDTH * HEIGHT - 45]
    forms = [
        {"size": [HEIGHT, WIDTH], "counts": runs},
        {"size": [HEIGHT, WIDTH], "counts": "5X1n0"},
        {"size": [HEIGHT, WIDTH], "counts": "b'5X1n0'"},
        [[[4, 3], [12, 3], [12, 11]]],  # nested
        [square(4, 3, 8), [1, 2]],  # a second part without area
        [],
    ]
    encoded = mask_utils.frPyObjects({"size": [HEIGHT, WIDTH], "counts": runs}, HEIGHT, WIDTH)["counts"].decode()
    forms[1]["counts"], forms[2]["counts"] = encoded, f"b'{encoded}'"
    for one, form in zip(content["annotations"], forms, strict=False):
        one["segmentation"] = form
    content["images"][2]["file_name"] = r"C:\Users\me\shots\photo_2.JPG"
    content["images"].append({"id": 99, "file_name": "gone.jpg", "width": 48, "height": 32})
    content["annotations"][-1]["image_id"] = 1234
    text(root / "annotations/instances_default.json", json.dumps(content), bom=True)


def roboflow(root: Path) -> None:
    """Roboflow: a file in the folder of each split, with a root category."""
    for split, count in (("train", 4), ("valid", 2), ("test", 1)):
        content = coco(root / "all", count)
        content["categories"] = [{"id": 0, "name": "parts", "supercategory": "none"}] + [
            {"id": number, "name": name, "supercategory": "parts"} for number, name in ((1, "screw"), (2, "nut"))
        ]
        for one in content["annotations"]:
            one["category_id"] += 1
        for record in content["images"]:
            picture(root / split / record["file_name"], 10 * count + record["id"])
        text(root / split / "_annotations.coco.json", json.dumps(content))
    for path in sorted((root / "all/images").iterdir()):
        path.unlink()


def yolo(root: Path, polygons: bool = False) -> None:
    """Ultralytics: names as a mapping, `../` paths, mixed lines, background, labels beyond the image, CRLF, BOM."""
    names = "names:\n  0: screw\n  1: nut\n"
    text(
        root / "data.yaml", f"path: /content/parts\ntrain: ../train/images\nval: valid/images\nnc: 2\n{names}", bom=True
    )
    line = "0 0.2 0.2 0.5 0.2 0.5 0.6\n" if polygons else "0 0.3 0.4 0.2 0.3\n"
    for split, count in (("train", 5), ("valid", 2)):
        for number in range(count):
            picture(root / f"{split}/images/{split}_{number}.JPG", number + 10 * count)
            second = "1 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3\n" if polygons else "1 0.96 0.5 0.1 0.2\n"
            text(root / f"{split}/labels/{split}_{number}.txt", line + second, bom=number == 0, crlf=number == 1)
    folder = root / "train/labels"
    (folder / "train_4.txt").unlink()
    text(folder / "train_2.txt", line + line + "0 120 40 20 30\n7 0.5 0.5 0.1 0.1\nscrew 1\n1 0.5 0.5 0.2 0.2 0.9\n")
    text(folder / "train_3.txt", "1 0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3\n0 0.3 0.4 0.2 0.3\n")
    text(folder / "lost.txt", line)


def voc(root: Path) -> None:
    """Boxes from 1; a difficult one; a file name that is wrong, and one of another machine; lists of the splits."""
    for number in range(5):
        path = picture(root / f"JPEGImages/2007_{number}.jpg", number)
        name = {1: "old_name.jpg", 2: r"D:\data\2007_2.jpg"}.get(number, path.name)
        boxes = "".join(
            f"<object><name>{label}</name><truncated>1</truncated><difficult>{difficult}</difficult><bndbox>"
            f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 9}</xmax><ymax>{y + 9}</ymax></bndbox></object>"
            for label, difficult, x, y in (("dog", 0, 1, 1), ("cat", int(number == 0), 39, 23))
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        content = f"<annotation><filename>{name}</filename>{size}{boxes}</annotation>"
        text(root / f"Annotations/2007_{number}.xml", content, bom=number == 3, crlf=True)
    text(root / "ImageSets/Main/train.txt", "2007_0\n2007_1\n2007_2\n", crlf=True)
    text(root / "ImageSets/Main/val.txt", "2007_3\n")
    text(root / "ImageSets/Main/dog_train.txt", "2007_0  1\n")


def voc_maps(root: Path) -> None:
    """SegmentationClass with palettes and a border of 255; most images have none."""
    for number in range(5):
        picture(root / f"JPEGImages/{number}.jpg", number)
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[4:20, 4:20], values[3, 3:21] = 12, 255
        if number < 4:
            path = root / f"SegmentationClass/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(values)
            image.putpalette([part for colour in voc_colours() for part in colour])
            image.save(path)
    text(root / "ImageSets/Segmentation/train.txt", "0\n1\n2\n")
    text(root / "ImageSets/Segmentation/val.txt", "3\n")


def labelme(root: Path) -> None:
    """Every kind of shape; Windows paths; an image that lies in its file only; a turned photo."""
    mask = io.BytesIO()
    Image.fromarray(np.full((6, 5), 255, np.uint8)).save(mask, "PNG")
    shapes = [
        {"label": "nut", "points": [[2, 2], [12, 2], [12, 12], [2, 12]], "shape_type": "polygon", "group_id": 1},
        {"label": "nut", "points": [[20, 2], [26, 2], [26, 8]], "shape_type": "polygon", "group_id": 1},
        {"label": "screw", "points": [[20, 20], [14, 12]], "shape_type": "rectangle", "group_id": None},
        {"label": "screw", "points": [[30, 20], [34, 20]], "shape_type": "circle"},
        {"label": "screw", "points": [[1, 1], [4, 4]], "shape_type": "linestrip"},
        {"label": "screw", "points": [[1, 1]], "shape_type": "point"},
        {"label": "nut", "points": [[1, 20]], "shape_type": "mask", "mask": base64.b64encode(mask.getvalue()).decode()},
        {"label": "__ignore__", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"},
    ]
    for number in range(5):
        path = picture(root / f"shots/{number}.jpg", number)
        content = {"shapes": shapes, "imagePath": rf"..\shots\{number}.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}
        if number == 3:
            content |= {"imagePath": None, "imageData": base64.b64encode(path.read_bytes()).decode()}
            path.unlink()
        if number == 4:  # stored lying, displayed upright; labelme writes the size as displayed
            picture(path, 4, orientation=CW)
            content |= {"imageHeight": WIDTH, "imageWidth": HEIGHT}
            content["shapes"] = shapes[:1]
        text(root / f"labels/{number}.json", json.dumps(content), bom=number == 1)


def pack_brush(bitmap: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a bitmap: a literal packer, one run or one value at a time."""
    values = np.repeat(bitmap.astype(np.uint8).ravel() * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    start = 0
    while start < len(values):
        end = start
        while end < len(values) and values[end] == values[start] and end - start < 2**16:
            end += 1
        kind = next(kind for kind, size in enumerate((3, 4, 8, 16)) if end - start - 1 < 2**size)
        bits += f"1{kind:02b}{end - start - 1:0{(3, 4, 8, 16)[kind]}b}{values[start]:08b}"
        start = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def label_studio(root: Path) -> None:
    """JSON with uploads, local files, every kind of area, a cancelled annotation."""
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[20:30, 30:45] = True
    whole = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    results = [
        {"type": "brushlabels", "value": {"format": "rle", "rle": pack_brush(bitmap), "brushlabels": ["nut"]}},
        {"type": "polygonlabels", "value": {"points": [[10, 10], [30, 10], [30, 50]], "polygonlabels": ["screw"]}},
        {
            "type": "ellipselabels",
            "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 90, "ellipselabels": ["nut"]},
        },
        {"type": "keypointlabels", "value": {"x": 1, "y": 2, "width": 0.4, "keypointlabels": ["nut"]}},
        {"type": "rectanglelabels", "value": {"x": 50, "y": 50, "width": 25, "height": 25, "rectanglelabels": ["nut"]}},
    ]
    tasks = []
    for number in range(4):
        picture(root / f"images/f00dcafe-photo {number}.png", number)
        address = f"/data/upload/3/f00dcafe-photo%20{number}.png"
        if number == 1:
            address = "/data/local-files/?d=images%5Cf00dcafe-photo 1.png"
        if number == 2:
            picture(root / "images/other.png", 9)
            address = "/data/upload/3/0123abcd-other.png"
        entries = [{**whole, **one} for one in results]
        annotations = [{"was_cancelled": True, "result": entries}, {"was_cancelled": False, "result": entries}]
        tasks.append({"id": number, "data": {"image": address}, "annotations": annotations, "predictions": []})
    text(root / "project-1.json", json.dumps(tasks))


def panoptic(root: Path, plain: bool = False) -> None:
    """COCO panoptic: missing flags and boxes, ids as text, void, photos that are PNGs, a BOM.

    Unless `plain`, also what training does not take as it is: paths of Windows, a turned photo, other kinds of PNG.
    """
    categories = [{"id": 3, "name": "nut", "isthing": 1}, {"id": 4, "name": "bench", "isthing": 0}]
    kinds = {} if plain else {"train_2.jpg": "RGBA", "val_0.jpg": "P"}
    for split, count in (("train", 4), ("val", 3)):
        images, annotations = [], []
        for number in range(count):
            name = f"{split}_{number}.{'png' if number == 1 else 'jpg'}"
            orientation = CW if name == "val_2.jpg" and not plain else 1
            picture(root / f"images/{name}", number + 10 * count, orientation=orientation)
            ids = np.full((HEIGHT, WIDTH), 70_000 + number, np.int32)
            ids[4:14, 5:17], ids[4:14, 25:37], ids[-2:] = 300, 2, 0
            segments = [
                {"id": 70_000 + number, "category_id": 4, "area": 1234},
                {"id": "300", "category_id": 3, "bbox": [5, 4, 12, 10], "iscrowd": 0},
                {"id": 2, "category_id": 3, "iscrowd": int(number == 0)},
            ]
            file_name = f"{split}_{number}.png"
            images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            annotations.append({"image_id": number, "file_name": file_name, "segments_info": segments})
            path = root / f"annotations/panoptic_{split}/{file_name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            png = Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8))
            kind = kinds.get(name, "RGB")
            (png.quantize(4) if kind == "P" else png.convert(kind)).save(path)
        if not plain:
            images[0]["file_name"] = rf"D:\shots\{images[0]['file_name']}"
        content = {"images": images, "annotations": annotations, "categories": categories}
        text(root / f"annotations/panoptic_{split}.json", json.dumps(content), bom=split == "train")


def cityscapes(root: Path) -> None:
    for split, city, count in (("train", "aachen", 3), ("train", "bochum", 2), ("val", "lindau", 2)):
        for number in range(count):
            stem = f"{split}/{city}/{city}_{number}"
            picture(root / f"leftImg8bit/{stem}_leftImg8bit.png", number + 10 * ord(city[0]))
            values = np.full((HEIGHT, WIDTH), 7, np.uint8)
            values[:10], values[-4:] = 23, 1
            for end in ("labelIds", "instanceIds"):
                path = root / f"gtFine/{stem}_gtFine_{end}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)


def masks(root: Path, values: tuple = (0, 255), subfolder: str = "") -> None:
    """Pairs with endings, in one folder of images and one of masks. values: numbers, or colours."""
    for number in range(5):
        picture(root / "images" / subfolder / f"p{number}.jpg", number)
        content = np.zeros((HEIGHT, WIDTH, *np.shape(values[0])), np.uint8)
        content[:] = values[0]
        content[8:20, 8:30] = values[1]
        if len(values) > 2:
            content[:2] = values[2]
        path = root / "masks" / subfolder / f"p{number}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(path)


def depth(root: Path, kind: str) -> None:
    """Distances from 1 to 5 m, with one pixel not measured."""
    metres = np.linspace(1, 5, WIDTH, dtype=np.float32)[None].repeat(HEIGHT, 0)
    metres[0, 0] = np.nan if kind != "png" else 0
    for number in range(4):
        picture(root / f"rgb/f{number}.jpg", number)
        path = root / f"depth/f{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(path, metres)
        elif kind == "exr":
            import OpenEXR

            header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
            OpenEXR.File(header, {"Z": metres}).write(str(path))
        elif kind == "png":
            Image.fromarray((metres * 256).astype(np.uint16)).save(path)
        else:
            Image.fromarray(metres).save(path)
